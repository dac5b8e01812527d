//! What the tests of several files share: a real etcd of their own.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod etcd;
pub mod pki;
