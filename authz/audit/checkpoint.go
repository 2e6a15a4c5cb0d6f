package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint says what the log was when so many records were in it. Its text is
// a signed note as transparency logs use it (C2SP signed-note), over four lines: origin,
// count, head in base64, "time" and Unix µs. The head is that of a hash chain, not of a tree.
//
// The one beside the log has a fifth line, "newest", and no record holds it: so whoever cuts
// the log's end finds no text in what is left that would pass for it.
type Checkpoint struct {
	Origin string
	Count  uint64   // records in the log since it began
	Head   [32]byte // the hash of the last of them
	Time   int64    // Unix µs
	Newest bool     // of the file beside the log
}

// maxNote bounds the text of a checkpoint: an origin has at most 255 bytes.
const maxNote = 1024

// key is one public key under the log's name.
type key struct {
	public   ed25519.PublicKey
	verifier note.Verifier
}

func newKey(origin string, public ed25519.PublicKey) (key, error) {
	if len(origin) > 255 {
		return key{}, errors.New("origin: is longer than 255 bytes; a short name without spaces or '+', such as sluiced/eu-1")
	}
	text, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return key{}, err
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return key{}, fmt.Errorf("origin: %q is no name; one without spaces or '+', such as sluiced/eu-1", origin)
	}
	return key{public, v}, nil
}

// text is how a record names the key: base64.
func (k key) text() string { return base64.StdEncoding.EncodeToString(k.public) }

// signer implements note.Signer.
type signer struct {
	key
	private ed25519.PrivateKey
}

func newSigner(origin string, seed [32]byte) (*signer, error) {
	private := ed25519.NewKeyFromSeed(seed[:])
	k, err := newKey(origin, private.Public().(ed25519.PublicKey))
	return &signer{k, private}, err
}

// Name implements note.Signer.
func (s *signer) Name() string { return s.verifier.Name() }

// KeyHash implements note.Signer.
func (s *signer) KeyHash() uint32 { return s.verifier.KeyHash() }

// Sign implements note.Signer.
func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.private, msg), nil }

func (s *signer) checkpoint(c *Checkpoint) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, s)
}

const newestLine = "newest"

func (c *Checkpoint) text() string {
	text := c.Origin + "\n" + strconv.FormatUint(c.Count, 10) + "\n" +
		base64.StdEncoding.EncodeToString(c.Head[:]) + "\ntime " + strconv.FormatInt(c.Time, 10) + "\n"
	if c.Newest {
		text += newestLine + "\n"
	}
	return text
}

var errNote = errors.New("is no checkpoint of this log: origin, count, head and time, each on its line, an empty line, and one signature")

// parseCheckpoint reads what a note says, without a look at the signature. Only
// the one spelling that checkpoint writes is accepted.
func parseCheckpoint(text []byte) (Checkpoint, error) {
	var c Checkpoint
	if len(text) > maxNote {
		return c, errNote
	}
	body, _, _ := strings.Cut(string(text), "\n\n")
	lines := strings.Split(body, "\n")
	if c.Newest = len(lines) == 5 && lines[4] == newestLine; len(lines) != 4 && !c.Newest {
		return c, errNote
	}
	c.Origin = lines[0]
	var err1, err3 error
	c.Count, err1 = strconv.ParseUint(lines[1], 10, 64)
	head, err2 := base64.StdEncoding.DecodeString(lines[2])
	c.Time, err3 = strconv.ParseInt(strings.TrimPrefix(lines[3], "time "), 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || len(head) != len(c.Head) {
		return c, errNote
	}
	copy(c.Head[:], head)
	if c.text() != body+"\n" {
		return c, errNote
	}
	return c, nil
}

// verify reports whether text is a checkpoint with exactly one signature, made by one of keys.
// A signature has one spelling only, so that no byte of it can be changed.
func verify(text []byte, keys ...key) (Checkpoint, error) {
	c, err := parseCheckpoint(text)
	if err != nil {
		return c, err
	}
	for _, k := range keys {
		n, err := note.Open(text, note.VerifierList(k.verifier))
		if err != nil {
			continue
		}
		again := fmt.Sprintf("%s\n— %s %s\n", n.Text, n.Sigs[0].Name, n.Sigs[0].Base64)
		_, err = base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64)
		if err != nil || len(n.UnverifiedSigs) > 0 || !bytes.Equal([]byte(again), text) {
			return c, errNote
		}
		return c, nil
	}
	return c, errors.New("is not signed by the log's key")
}

const pemType = "PUBLIC KEY"

// publicPEM is the one spelling of audit.pub.
func publicPEM(public ed25519.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic("audit: an Ed25519 key has a PKIX form: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
}

// ParsePublicKeys reads Ed25519 keys from PEM, as audit.pub has them.
func ParsePublicKeys(text []byte) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		public, ok := parsed.(ed25519.PublicKey)
		if err != nil || !ok || block.Type != pemType {
			return nil, errors.New("not an Ed25519 public key; the PEM of audit.pub, as sluiced wrote it")
		}
		keys, text = append(keys, public), rest
	}
	if len(keys) == 0 {
		return nil, errors.New("no public key; the PEM of audit.pub, as sluiced wrote it")
	}
	return keys, nil
}
