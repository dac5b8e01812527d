//! Data-driven tests of defaults and checks.
