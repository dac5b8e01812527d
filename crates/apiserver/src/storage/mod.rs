//! The edge to the store. [`Upstream`] gives a store upstream's layout (what etcd holds is what a
//! Kubernetes API server would have written), [`Bounded`] gives every call of a store a time
//! limit and a figure, [`compact`] forgets old versions where the store does not do so itself.
//! Above this edge a stored value is JSON, as [`crate::cache::encode`] writes it.
//!
//! The layout is described in `docs/storage-layout.md`.

mod bounded;
pub mod compact;
mod crds;
pub mod encryption;
mod etcd_form;
mod upstream;

pub use bounded::Bounded;
pub use etcd_form::{BadForm, Form, Layout};
pub use upstream::Upstream;
