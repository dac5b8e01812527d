//! Properties of the collector.
