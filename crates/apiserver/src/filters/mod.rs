//! The steps between socket and verb: who asks ([`authn`]) and whether they may ([`authz`]).

pub mod authn;
pub mod authz;
