package profile

import "testing"

func TestTheEmbeddedProfilesAreValid(t *testing.T) {
	for _, n := range Names() {
		v, err := Load(Options{Profile: n})
		if err != nil {
			t.Fatal(n, err)
		}
		if v.Profile != n {
			t.Errorf("profile %s calls itself %s", n, v.Profile)
		}
	}
}
