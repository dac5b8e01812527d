//! Quantities as the API writes them: `100m`, `1.5Gi`, `2e3`. Exact decimal arithmetic.

/// A parsed quantity. (Interface; see the module's functions.)
#[derive(Clone, Debug)]
pub struct Quantity;
