package ratelimit

import "testing"

func TestWhatAnOutageMeansIsNeverMoreThanWasAskedFor(t *testing.T) {
	for _, c := range []struct {
		name, word string
		durable    bool
		want       Outage
		known      bool
	}{
		{"nothing is said of a durable limit", "", true, OutageDeny, true},
		{"nothing is said of another limit", "", false, OutageLocal, true},
		{"local is said of a durable limit", "local", true, OutageLocal, true},
		{"allow is said", "allow", true, OutageAllow, true},
		{"deny is said of another limit", "deny", false, OutageDeny, true},
		{"a word is no word", "open", false, OutageDeny, false},
		{"a word is in capitals", "Allow", false, OutageDeny, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := OutageAllow
			if known := o.Say(c.word, c.durable); known != c.known || o != c.want {
				t.Errorf("%v, %v; want %v, %v", o, known, c.want, c.known)
			}
			if c.known && c.word != "" && o.String() != c.word {
				t.Errorf("it is called %v", o)
			}
		})
	}
	if s := Outage(200).String(); s != "deny" {
		t.Errorf("what is unknown is called %s", s)
	}
}
