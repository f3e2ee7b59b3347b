//! Answers: every one is read back, and nothing else is read.
