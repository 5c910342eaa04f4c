//! Operations that streams and graphs hold, and how each one runs. A graph is an operation made of others.

use std::fmt;
use std::sync::Arc;

use super::device::Device;
use super::fill::Fill;
use super::graph_memory::GraphMemory;
use super::launch::Launch;
use super::record::Record;
use super::transfer::Transfer;
use crate::driver::abi::HostCall;
use crate::driver::codes::Result;

/// One operation.
#[derive(Clone)]
pub(crate) enum Work {
    Launch(Arc<Launch>),
    Transfer(Transfer),
    Fill(Fill),
    /// Ends a stream-ordered allocation.
    Free(u64),
    /// Completes the n-th record of an event.
    Record(Arc<Record>, u64),
    Host(HostCall),
    /// An instantiated graph.
    Nodes(Arc<Nodes>),
    /// Only a point that others can wait for.
    Nothing,
}

impl Work {
    /// Runs the operation.
    pub(crate) fn run(&self, device: &Device) -> Result<()> {
        match self {
            Self::Launch(launch) => launch.run(device),
            Self::Transfer(transfer) => transfer.run(device),
            Self::Fill(fill) => fill.run(device),
            Self::Free(ptr) => device.free(*ptr),
            Self::Record(record, generation) => {
                record.complete(*generation);
                Ok(())
            }
            Self::Host(call) => {
                call.call();
                Ok(())
            }
            Self::Nodes(nodes) => nodes.run(device),
            Self::Nothing => Ok(()),
        }
    }

    /// Does what must happen even after the context has ended: memory is given back.
    pub(crate) fn abandon(&self, device: &Device) {
        if let Self::Free(ptr) = self {
            // The context's fault is what its owner will see; a failed free adds nothing to it.
            let _ = device.free(*ptr);
        }
    }

    /// Tells the `CUgraphNodeType` of the operation.
    pub(crate) fn node_type(&self) -> i32 {
        match self {
            Self::Launch(_) => 0,
            Self::Transfer(_) => 1,
            Self::Fill(_) => 2,
            Self::Host(_) => 3,
            Self::Nodes(_) => 4,
            Self::Record(..) => 7,
            Self::Free(_) => 11,
            Self::Nothing => 5,
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node of type {}", self.node_type())
    }
}

/// One node: what runs, after which other nodes, by their indices.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) handle: usize,
    pub(crate) work: Work,
    pub(crate) after: Vec<usize>,
}

/// Nodes that run as one operation.
pub(crate) struct Nodes {
    nodes: Arc<[Node]>,
    /// For each node, the nodes that come after it, once per edge.
    followers: Vec<Vec<usize>>,
    /// What they work on lives at least until they have run.
    _memory: Arc<GraphMemory>,
}

impl Nodes {
    pub(crate) fn new(nodes: Arc<[Node]>, memory: Arc<GraphMemory>) -> Self {
        let mut followers = vec![Vec::new(); nodes.len()];
        for (later, node) in nodes.iter().enumerate() {
            node.after.iter().for_each(|&earlier| followers[earlier].push(later));
        }
        Self { nodes, followers, _memory: memory }
    }

    /// The nodes, in the order in which they were added.
    pub(crate) fn all(&self) -> &[Node] {
        &self.nodes
    }

    /// Runs every node, choosing among the ready ones as the order wants.
    fn run(&self, device: &Device) -> Result<()> {
        let mut missing: Vec<usize> = self.nodes.iter().map(|node| node.after.len()).collect();
        let mut ready: Vec<usize> = (0..self.nodes.len()).filter(|&i| missing[i] == 0).collect();
        while !ready.is_empty() {
            ready.sort_unstable();
            let node = ready.remove(device.interleaving.choose(ready.len()));
            self.nodes[node].work.run(device)?;
            for &later in &self.followers[node] {
                missing[later] -= 1;
                if missing[later] == 0 {
                    ready.push(later);
                }
            }
        }
        Ok(())
    }
}
