//! What requests and responses consist of, before anybody asks what they are about: paths and
//! parameters, bodies, the form in which an answer is wanted. It knows no state and no kind.

pub mod body;
pub mod negotiate;
pub mod options;
pub mod ordered;
pub mod request;
pub mod respond;
pub mod warnings;

pub use body::{Body, BoxError};
