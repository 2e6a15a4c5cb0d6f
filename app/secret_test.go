package app

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// C-05: no secret is a default, and none that everybody knows is taken.
func TestC05NoSecretIsADefault(t *testing.T) {
	seen := map[string]string{}
	for range 3 {
		data := t.TempDir()
		token, err := Init(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{secretFile, adminTokenFile, adminHashFile} {
			content, err := os.ReadFile(filepath.Join(data, name))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.TrimSpace(string(content))
			if len(text) < 43 || seen[text] != "" {
				t.Errorf("%s is %q, as is %s", name, text, seen[text])
			}
			seen[text] = name
		}
		if len(token) < 4+43 {
			t.Errorf("the admin token has %d characters", len(token))
		}
	}
	for what, secret := range map[string]string{
		"no secret":       "",
		"a short one":     base64.RawURLEncoding.EncodeToString(make([]byte, 31)),
		"nothing but 0":   base64.RawURLEncoding.EncodeToString(make([]byte, 32)),
		"a word":          "changeme",
		"two in one file": strings.Repeat(random()+"\n", 2),
	} {
		data := t.TempDir()
		if err := os.WriteFile(filepath.Join(data, secretFile), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadKeys(data); err == nil || !strings.Contains(err.Error(), "sluiced init") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestInitWritesNothingWhereASecretIsLost(t *testing.T) {
	for _, left := range []string{adminHashFile, adminTokenFile, journalFile, catalogFile, lastUsedFile, auditFolder} {
		data := t.TempDir()
		if left == auditFolder {
			if err := os.Mkdir(filepath.Join(data, left), 0o700); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(filepath.Join(data, left), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Init(data)
		if err == nil || !strings.Contains(err.Error(), filepath.Join(data, left)+" exists") || !strings.Contains(err.Error(), "restore "+filepath.Join(data, secretFile)+" from a backup") {
			t.Errorf("%s: %v", left, err)
		}
		if files, err := os.ReadDir(data); err != nil || len(files) != 1 {
			t.Errorf("%s: %v, %v", left, files, err)
		}
	}
	t.Run("a folder of a file system's own is no such folder", func(t *testing.T) {
		data := t.TempDir()
		if err := os.Mkdir(filepath.Join(data, "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Init(data); err != nil {
			t.Error(err)
		}
	})
}

func TestKeyDigestIsThatOfTheFoldersSecret(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, data := range []string{first, second} {
		if _, err := Init(data); err != nil {
			t.Fatal(err)
		}
	}
	digest := func(data, key string) string {
		t.Helper()
		d, err := KeyDigest(data, key)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if one := digest(first, "a"); len(one) != 64 || one != digest(first, "a") || one == digest(first, "b") || one == digest(second, "a") {
		t.Errorf("%s: want 64 digits, the same for the same key and secret, and others else", one)
	}
	if _, err := KeyDigest(t.TempDir(), "a"); err == nil {
		t.Error("a folder without a secret gave a digest")
	}
}
