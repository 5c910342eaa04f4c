//! Graphs: captured work, instantiated and launched as one operation.

use std::sync::{Arc, Mutex};

use super::device::Device;
use super::graph_memory::GraphMemory;
use super::schedule::Mark;
use super::work::{Node, Nodes};
use crate::driver::registry::fresh_id;

/// A captured graph.
pub(crate) struct Graph {
    pub(crate) handle: usize,
    pub(crate) nodes: Arc<[Node]>,
    memory: Arc<GraphMemory>,
}

impl Graph {
    pub(crate) fn new(device: &Arc<Device>, nodes: Vec<Node>, allocations: Vec<u64>) -> Self {
        Self { handle: fresh_id(), nodes: nodes.into(), memory: Arc::new(GraphMemory::new(device, allocations)) }
    }

    /// Makes a second graph of the same nodes.
    pub(crate) fn duplicate(&self) -> Self {
        Self { handle: fresh_id(), nodes: self.nodes.clone(), memory: self.memory.clone() }
    }

    /// Makes what can be launched.
    pub(crate) fn instantiate(&self, flags: u64) -> GraphExec {
        let nodes = Arc::new(Nodes::new(self.nodes.clone(), self.memory.clone()));
        GraphExec { nodes, flags, last: Mutex::new(None) }
    }
}

/// A graph that can be launched.
pub(crate) struct GraphExec {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) flags: u64,
    /// Its last launch: launches of one executable graph never overlap.
    pub(crate) last: Mutex<Option<Mark>>,
}
