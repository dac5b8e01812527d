//! Binds the pod through the API.

use std::sync::Arc;

use super::{Events, Plugin, Prepare, Write};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn prepare<'a>(&'a self, _: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        Ok(None)
    }
    fn bind(&self, _: &Pod, node: &Arc<str>) -> Option<Write> {
        Some(Write::BindPod { node: node.clone() })
    }
}
