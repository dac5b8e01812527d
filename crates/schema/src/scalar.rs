//! Scalars as a Go client's decode and encode leave them: times, durations, bytes, quantities.
