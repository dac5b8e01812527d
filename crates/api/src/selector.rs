//! Label and field selectors: parsing, matching, printing.

#[derive(Clone, Debug, Default)]
pub struct LabelSelector;
#[derive(Clone, Debug, Default)]
pub struct FieldSelector;
