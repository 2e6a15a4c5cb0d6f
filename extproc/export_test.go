package extproc

// Missing is for the tests from outside.
var Missing = missing
