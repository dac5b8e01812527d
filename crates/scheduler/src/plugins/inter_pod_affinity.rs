//! stub
use super::{Check, Events, Plugin};
use crate::pod::Pod;
use crate::snapshot::Snapshot;
pub struct InterPodAffinity;
impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn prepare<'a>(&self, _: &'a Pod, _: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        None
    }
}
