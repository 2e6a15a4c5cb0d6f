package api

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/voicecore-ai/sluice/authz/authn"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
)

// keyPrefix starts every key, so that scanners for leaked secrets know one.
const keyPrefix = "slk_"

// newKey returns the id of a new key, 40 random bits, and its whole text, with 256 more.
func newKey() (id, secret string) {
	var b [5 + 32]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	id = strings.ToLower(base32.StdEncoding.EncodeToString(b[:5]))
	return id, keyPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(b[5:])
}

func apiKeyOut(k quota.APIKey, origin quotav1.Origin) *quotav1.ApiKey {
	return &quotav1.ApiKey{
		Name:       apiKeyName(k.Tenant, k.ID),
		ExpireTime: timestamp(k.Expires),
		Origin:     origin,
		Etag:       catalog.ETag(k),
		Scopes:     k.Scopes,
	}
}

// lastUsed is when a key was last accepted; nil if that is not known.
func (s *server) lastUsed(id string) *timestamppb.Timestamp {
	if s.used == nil {
		return nil
	}
	at := s.used(id)
	if at == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMicro(at))
}

func (s *server) createAPIKey(r *quotav1.CreateApiKeyRequest, a *Act) (*quotav1.CreateApiKeyResponse, error) {
	of, err := parseTenant("parent", r.GetParent())
	if err != nil {
		return nil, err
	}
	a.Resource = tenantName(of) + strings.TrimSuffix(apiKeys, "/")
	var expires time.Time
	if t := r.GetApiKey().GetExpireTime(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, invalid("api_key.expire_time", "no time; write one like '2027-01-31T00:00:00Z'")
		}
		if expires = t.AsTime(); !expires.After(s.now()) {
			return nil, invalid("api_key.expire_time", "past; write a time to come, or leave it out")
		}
	}
	var secret string
	what := &subject{field: "api_key"}
	answer, err := change(edit{s, a, r}, what, func(c *catalog.Edit) (*quotav1.CreateApiKeyResponse, error) {
		if _, ok := c.Tenants.Find(string(of)); !ok {
			return nil, notFound(tenantName(of))
		}
		key := quota.APIKey{Tenant: of, Expires: expires, Scopes: r.GetApiKey().GetScopes()}
		for taken := true; taken; {
			key.ID, secret = newKey()
			_, taken = c.APIKeys.Find(key.ID)
		}
		digest := authn.Digest(s.pepper, secret)
		what.path, a.Resource = "api_keys["+key.ID+"]", apiKeyName(of, key.ID)
		key.Digest = hex.EncodeToString(digest[:])
		c.APIKeys.Put(key)
		// Without the secret: this is what is remembered under request_id.
		return &quotav1.CreateApiKeyResponse{ApiKey: apiKeyOut(key, quotav1.Origin_ORIGIN_API)}, nil
	})
	switch {
	case err != nil:
		return nil, err
	case r.GetValidateOnly():
		answer.ApiKey.Name, answer.ApiKey.Etag = "", "" // the real one will have another id
	case secret == "":
		return nil, about(codes.AlreadyExists, "SECRET_SHOWN_BEFORE", answer.GetApiKey().GetName(),
			"this request_id made it before, and its secret is kept nowhere; if it is lost, delete the key and create another")
	default:
		answer.Secret = secret
	}
	return answer, nil
}

func (s *server) listAPIKeys(r *quotav1.ListApiKeysRequest, _ *Act) (*quotav1.ListApiKeysResponse, error) {
	of, err := parseTenant("parent", r.GetParent())
	if err != nil {
		return nil, err
	}
	view := s.catalog.View()
	if _, ok := byID(view.Tenants, string(of), tenants.id); !ok {
		return nil, notFound(r.GetParent())
	}
	var keys []*catalog.Entry[quota.APIKey]
	for _, k := range view.APIKeys {
		if k.Value.Tenant == of {
			keys = append(keys, k)
		}
	}
	items, next, err := cut(s.pages, r.GetParent()+apiKeys, keys, func(k *catalog.Entry[quota.APIKey]) string { return k.Value.ID }, r)
	if err != nil {
		return nil, err
	}
	answer := &quotav1.ListApiKeysResponse{NextPageToken: next}
	for _, k := range items {
		key := apiKeyOut(k.Value, origin(k.Origin))
		key.LastUsedTime = s.lastUsed(k.Value.ID)
		answer.ApiKeys = append(answer.ApiKeys, key)
	}
	return answer, nil
}

func (s *server) deleteAPIKey(r *quotav1.DeleteApiKeyRequest, a *Act) (*emptypb.Empty, error) {
	of, id, err := parseAPIKey("name", r.GetName())
	if err != nil {
		return nil, err
	}
	a.Resource = apiKeyName(of, id)
	return change(edit{s, a, r}, &subject{path: "api_keys[" + id + "]"}, func(c *catalog.Edit) (*emptypb.Empty, error) {
		key, err := apiKey(c, of, id)
		if err != nil {
			return nil, err
		}
		if err := fresh(r.GetName(), r.GetEtag(), catalog.ETag(key)); err != nil {
			return nil, err
		}
		c.APIKeys.Delete(id)
		return &emptypb.Empty{}, nil
	})
}
