// Package nearest finds the name that was meant where one was misspelt, for messages that end with a question.
// It costs the product of the lengths for each known name, so words longer than any name are not compared.
package nearest

import "strings"

// longest is more letters than a name has that somebody writes by hand.
const longest = 64

// Name returns the known name that differs least from word, in any case of letters; "" if none is near: within a
// third of the word's letters, and within two for short ones.
func Name(word string, known []string) string {
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", max(2, len(word)/3)+1
	for _, k := range known {
		if n := distance(word, strings.ToLower(k)); n < least && n < len(k) {
			best, least = k, n
		}
	}
	return best
}

// distance is how many letters must be added, removed or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
