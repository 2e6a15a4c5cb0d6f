package app

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/voicecore-ai/sluice/authz/authn"
)

// Files in the data folder.
const (
	secretFile     = "secret"
	adminTokenFile = "admin.token"
	adminHashFile  = "admin.token.sha256"
	journalFile    = "journal.db"
	catalogFile    = "catalog.db"
	lastUsedFile   = "last_used.json"
	auditFolder    = "audit"
)

// keys are what the one secret of a data folder is stretched to (RFC 5869), so
// that no two uses share a key.
type keys struct {
	pepper   [32]byte // of API key digests
	cells    [16]byte // of counter names
	decision [16]byte // of decision ids
	token    [32]byte // of tenant tokens
	audit    [32]byte // signs the audit log
	mask     [32]byte // of digests that stand for credentials in it
	origin   string   // the audit log's name

	fingerprint [32]byte // tells replicas that share a store whether they share the secret; it may be shown
}

// Init makes the data folder: a random secret, and an admin token whose
// SHA-256 is kept. It returns the token, which is also left in a file that
// only the owner can read. It refuses to replace a secret: every API key
// and every recorded usage hangs on it.
func Init(data string) (token string, err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return "", dataProblem(data, err)
	}
	if err := unused(data); err != nil {
		return "", err
	}
	if err := writeNew(filepath.Join(data, secretFile), random()); err != nil {
		return "", err
	}
	token = "sla_" + random()
	sum := sha256.Sum256([]byte(token))
	if err := writeNew(filepath.Join(data, adminHashFile), hex.EncodeToString(sum[:])); err != nil {
		return "", err
	}
	return token, writeNew(filepath.Join(data, adminTokenFile), token)
}

// unused is an error if data holds what a server left that had a secret. A new one beside it would open nothing: digests of
// API keys, names of counters and the audit log are the old one's.
func unused(data string) error {
	if _, err := os.Lstat(filepath.Join(data, secretFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil // writeNew says what there is to say
	}
	for _, name := range []string{adminHashFile, adminTokenFile, journalFile, catalogFile, lastUsedFile, auditFolder} {
		path := filepath.Join(data, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return dataProblem(data, err)
		}
		return fmt.Errorf("%s exists, and its secret does not: every API key, all usage and the audit log hang on that one; restore %s from a backup (nothing was written), "+
			"or choose another --data, or remove the folder and all of that with it", path, filepath.Join(data, secretFile))
	}
	return nil
}

func random() string {
	var b [32]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func writeNew(path, content string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: this folder is initialised already; choose another --data, or remove the folder and with it every API key and all usage", path)
	}
	if err != nil {
		return dataProblem(filepath.Dir(path), err)
	}
	_, err = f.WriteString(content + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// secrets is the folder of the secret and the digest of the admin token.
func (c Config) secrets() string {
	if c.Secrets != "" {
		return c.Secrets
	}
	return c.Data
}

func loadKeys(dir string) (keys, error) {
	raw, err := os.ReadFile(filepath.Join(dir, secretFile)) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrNotExist) {
		return keys{}, fmt.Errorf("folder %q has no secret: run 'sluiced init --data %s' once, or name with --secrets the folder where its files are", dir, dir)
	}
	if err != nil {
		return keys{}, dataProblem(dir, err)
	}
	secret, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(secret) != 32 || [32]byte(secret) == [32]byte{} {
		return keys{}, fmt.Errorf("secret: %s is not what 'sluiced init' wrote; restore it from a backup", filepath.Join(dir, secretFile))
	}
	var k keys
	var origin [8]byte
	for _, use := range []struct {
		info string
		into []byte
	}{
		{"sluice api-key pepper v1", k.pepper[:]},
		{"sluice cell names v1", k.cells[:]},
		{"sluice decision ids v1", k.decision[:]},
		{"sluice tenant tokens v1", k.token[:]},
		{"sluice audit signature v1", k.audit[:]},
		{"sluice audit mask v1", k.mask[:]},
		{"sluice audit origin v1", origin[:]},
		{"sluice replicas' fingerprint v1", k.fingerprint[:]},
	} {
		derived, err := hkdf.Key(sha256.New, secret, nil, use.info, len(use.into))
		if err != nil {
			return keys{}, fmt.Errorf("secret: %w", err)
		}
		copy(use.into, derived)
	}
	k.origin = "sluice/" + hex.EncodeToString(origin[:])
	return k, nil
}

func loadAdminDigest(dir string) (digest [32]byte, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, adminHashFile)) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrNotExist) {
		return digest, fmt.Errorf("folder %q has a secret and no %s: 'init' was interrupted, or the file is lost; remove a folder that was never used and run 'sluiced init' again, or restore the file from a backup", dir, adminHashFile)
	}
	if err != nil {
		return digest, dataProblem(dir, err)
	}
	if n, err := hex.Decode(digest[:], []byte(strings.TrimSpace(string(raw)))); err != nil || n != len(digest) {
		return digest, fmt.Errorf("admin token: %s is not a SHA-256 in hex; restore it from a backup", filepath.Join(dir, adminHashFile))
	}
	return digest, nil
}

// dataProblem adds to an error of the data folder what would mend it.
func dataProblem(data string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		remedy = fmt.Sprintf("; the folder and all in it must belong to the user that runs sluiced, now uid %d: chown -R %d %s", os.Geteuid(), os.Geteuid(), data)
	case errors.Is(err, syscall.EROFS):
		remedy = "; the folder must be on a file system that can be written"
	case errors.Is(err, syscall.ENOSPC):
		remedy = "; free some space"
	case errors.Is(err, syscall.ENOTDIR):
		remedy = "; a file is where a folder is meant, choose another --data"
	}
	return fmt.Errorf("data folder %q: %w%s", data, err, remedy)
}

// KeyDigest is what a catalogue says of an API key under the secret of a data folder.
func KeyDigest(data, key string) (string, error) {
	k, err := loadKeys(data)
	if err != nil {
		return "", err
	}
	digest := authn.Digest(k.pepper, key)
	return hex.EncodeToString(digest[:]), nil
}
