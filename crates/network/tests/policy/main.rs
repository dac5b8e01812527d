//! What is planned for network policies, held against a slow reading of the API's words: the same
//! verdict for random policies, pods and connections, after each of many changes; and the small
//! difference that is programmed leads to the whole.

mod administered;
mod cases;
mod planned;
mod random;
mod spoken;
