//! Graphs: work captured or put together node by node, instantiated and launched as one operation.

use std::sync::{Arc, Mutex};

use super::device::Device;
use super::graph_memory::GraphMemory;
use super::schedule::Mark;
use super::work::{Node, Nodes, Work};
use crate::driver::codes::{Code, Error, Result};
use crate::driver::registry::{fresh_id, lock};

/// A graph.
pub(crate) struct Graph {
    pub(crate) handle: usize,
    nodes: Mutex<Vec<Node>>,
    memory: Arc<GraphMemory>,
}

fn no_node() -> Error {
    Code::INVALID_VALUE.because("expected a node of this graph")
}

/// The place of a node among others.
fn index_of(nodes: &[Node], handle: usize) -> Result<usize> {
    nodes.iter().position(|node| node.handle == handle).ok_or_else(no_node)
}

/// Whether `later` comes after `earlier`, itself included.
fn follows(nodes: &[Node], later: usize, earlier: usize) -> bool {
    let (mut seen, mut pending) = (vec![false; nodes.len()], vec![later]);
    while let Some(at) = pending.pop() {
        if at == earlier {
            return true;
        }
        if !std::mem::replace(&mut seen[at], true) {
            pending.extend(&nodes[at].after);
        }
    }
    false
}

impl Graph {
    pub(crate) fn new(device: &Arc<Device>, nodes: Vec<Node>, allocations: Vec<u64>) -> Self {
        let memory = Arc::new(GraphMemory::new(device, allocations));
        Self { handle: fresh_id(), nodes: Mutex::new(nodes), memory }
    }

    /// The nodes as they are now.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        lock(&self.nodes).clone()
    }

    /// Adds a node behind others and returns its handle.
    pub(crate) fn add(&self, work: Work, after: &[usize]) -> Result<usize> {
        let mut nodes = lock(&self.nodes);
        let after = after.iter().map(|&handle| index_of(&nodes, handle)).collect::<Result<Vec<_>>>()?;
        let handle = fresh_id();
        nodes.push(Node { handle, work, after });
        Ok(handle)
    }

    /// Takes a node out, with its edges.
    pub(crate) fn remove(&self, handle: usize) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let gone = index_of(&nodes, handle)?;
        nodes.remove(gone);
        for node in nodes.iter_mut() {
            node.after.retain(|&at| at != gone);
            node.after.iter_mut().filter(|at| **at > gone).for_each(|at| *at -= 1);
        }
        Ok(())
    }

    /// Lets node `to` come after node `from`; an edge that is there already, and one that closes a circle, are refused.
    pub(crate) fn connect(&self, from: usize, to: usize) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let (from, to) = (index_of(&nodes, from)?, index_of(&nodes, to)?);
        if nodes[to].after.contains(&from) || follows(&nodes, from, to) {
            return Err(Code::INVALID_VALUE.because("expected a new edge that closes no circle"));
        }
        nodes[to].after.push(from);
        Ok(())
    }

    /// Takes an edge out.
    pub(crate) fn disconnect(&self, from: usize, to: usize) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let (from, to) = (index_of(&nodes, from)?, index_of(&nodes, to)?);
        let edge = nodes[to].after.iter().position(|&at| at == from);
        nodes[to].after.remove(edge.ok_or_else(|| Code::INVALID_VALUE.because("expected an edge of this graph"))?);
        Ok(())
    }

    /// Gives a node other work of its kind.
    pub(crate) fn replace(&self, handle: usize, work: Work) -> Result<()> {
        replace(&mut lock(&self.nodes), handle, work)
    }

    /// Makes a second graph of nodes like these.
    pub(crate) fn duplicate(&self) -> Self {
        let renewed = |node: Node| Node { handle: fresh_id(), ..node };
        let nodes = self.nodes().into_iter().map(renewed).collect();
        Self { handle: fresh_id(), nodes: Mutex::new(nodes), memory: self.memory.clone() }
    }

    /// Makes what can be launched.
    pub(crate) fn instantiate(&self, flags: u64) -> GraphExec {
        let nodes = Mutex::new(Arc::new(Nodes::new(self.nodes().into(), self.memory.clone())));
        GraphExec { nodes, memory: self.memory.clone(), flags, last: Mutex::new(None) }
    }
}

fn replace(nodes: &mut [Node], handle: usize, work: Work) -> Result<()> {
    let at = index_of(nodes, handle)?;
    if nodes[at].work.node_type() != work.node_type() {
        return Err(Code::INVALID_VALUE.because("expected parameters for a node of the same kind"));
    }
    nodes[at].work = work;
    Ok(())
}

/// A graph that can be launched.
pub(crate) struct GraphExec {
    nodes: Mutex<Arc<Nodes>>,
    memory: Arc<GraphMemory>,
    pub(crate) flags: u64,
    /// Its last launch: launches of one executable graph never overlap.
    pub(crate) last: Mutex<Option<Mark>>,
}

impl GraphExec {
    /// What a launch runs.
    pub(crate) fn nodes(&self) -> Arc<Nodes> {
        lock(&self.nodes).clone()
    }

    /// Gives a node other work of its kind, for later launches.
    pub(crate) fn replace(&self, handle: usize, work: Work) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        let mut changed = nodes.all().to_vec();
        replace(&mut changed, handle, work)?;
        *nodes = Arc::new(Nodes::new(changed.into(), self.memory.clone()));
        Ok(())
    }
}
