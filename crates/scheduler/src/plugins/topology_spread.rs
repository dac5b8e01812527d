//! stub
use super::{Check, Events, Plugin};
use crate::pod::Pod;
use crate::snapshot::Snapshot;
pub struct PodTopologySpread;
impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn prepare<'a>(&self, _: &'a Pod, _: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        None
    }
}
