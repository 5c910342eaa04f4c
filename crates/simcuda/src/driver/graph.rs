//! Graphs: captured work, instantiated and launched as one operation.

use std::sync::{Arc, Mutex};

use super::abi::{In, Out, api};
use super::codes::{Code, Result};
use super::registry::{fresh_id, lock};
use super::schedule::Mark;
use super::state::{self, Driver};
use super::stream;
use super::work::Work;

/// One node: what runs, after which other nodes (indices below its own).
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) handle: usize,
    pub(super) work: Work,
    pub(super) after: Vec<usize>,
}

/// Memory allocated during a capture; freed when the graph and everything made of it is gone.
struct GraphMemory(Vec<u64>);

impl Drop for GraphMemory {
    fn drop(&mut self) {
        let Ok(driver) = state::driver() else { return };
        for &ptr in &self.0 {
            if lock(&driver.graph_owned).remove(&ptr) {
                // It is in the set, so it was allocated and nobody freed it.
                let _ = driver.memory.free(ptr);
            }
        }
    }
}

/// A captured graph.
pub(super) struct Graph {
    pub(super) handle: usize,
    nodes: Arc<[Node]>,
    memory: Arc<GraphMemory>,
}

impl Graph {
    pub(super) fn new(driver: &Driver, nodes: Vec<Node>, allocations: Vec<u64>) -> Self {
        lock(&driver.graph_owned).extend(&allocations);
        Self { handle: fresh_id(), nodes: nodes.into(), memory: Arc::new(GraphMemory(allocations)) }
    }
}

/// A graph that can be launched.
pub(super) struct GraphExec {
    nodes: Arc<[Node]>,
    /// For each node, the nodes that come after it, once per edge.
    followers: Vec<Vec<usize>>,
    flags: u64,
    _memory: Arc<GraphMemory>,
    /// Its last launch: launches of one executable graph never overlap.
    last: Mutex<Option<Mark>>,
}

impl GraphExec {
    /// Runs every node, choosing among the ready ones as the order wants.
    pub(super) fn run(&self, driver: &Driver) -> Result<()> {
        let mut missing: Vec<usize> = self.nodes.iter().map(|node| node.after.len()).collect();
        let mut ready: Vec<usize> = (0..self.nodes.len()).filter(|&i| missing[i] == 0).collect();
        while !ready.is_empty() {
            ready.sort_unstable();
            let node = ready.remove(driver.scheduler.choose(ready.len()));
            self.nodes[node].work.run(driver)?;
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

const AUTO_FREE_ON_LAUNCH: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 15;

fn instantiate(graph: usize, flags: u64) -> Result<usize> {
    let driver = state::driver()?;
    let graph = driver.graphs.get(graph)?;
    if flags & !KNOWN_FLAGS != 0 || flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE_ON_LAUNCH != 0 {
        return Err(Code::INVALID_VALUE.because(format!("expected graph instantiation flags, got {flags:#x}")));
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Code::NOT_SUPPORTED.because("graphs launched by the device"));
    }
    let (nodes, memory) = (graph.nodes.clone(), graph.memory.clone());
    let mut followers = vec![Vec::new(); nodes.len()];
    for (later, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|&earlier| followers[earlier].push(later));
    }
    let handle = fresh_id();
    let exec = GraphExec { nodes, followers, flags, _memory: memory, last: Mutex::new(None) };
    driver.graph_execs.insert(handle, Arc::new(exec));
    Ok(handle)
}

fn launch(exec: usize, stream: usize) -> Result<()> {
    let (driver, stream) = stream::find(stream)?;
    let exec = driver.graph_execs.get(exec)?;
    match stream.active_capture() {
        Some(capture) => capture.add(stream.handle, Work::Graph(exec)).map(drop),
        None => {
            let before = lock(&exec.last).filter(|mark| mark.0 != stream.handle);
            let mark = stream.submit(driver, Work::Graph(exec.clone()), before.into_iter().collect())?;
            *lock(&exec.last) = Some(mark);
            Ok(())
        }
    }
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct InstantiateParams {
    flags: u64,
    upload_stream: usize,
    error_node: usize,
    result: i32,
}

api! {
    fn cuGraphInstantiateWithFlags(out: Out<usize>, graph: usize, flags: u64) {
        out.set(instantiate(graph, flags)?)
    }

    fn cuGraphInstantiateWithParams(out: Out<usize>, graph: usize, params: Out<InstantiateParams>) {
        let given = params.get()?;
        let exec = instantiate(graph, given.flags)?;
        params.set(InstantiateParams { error_node: 0, result: 0, ..given })?;
        out.set(exec)
    }

    fn cuGraphLaunch(exec: usize, stream: usize) {
        launch(exec, stream)
    }

    fn cuGraphUpload(exec: usize, stream: usize) {
        let (driver, _) = stream::find(stream)?;
        driver.graph_execs.get(exec).map(drop)
    }

    fn cuGraphExecDestroy(exec: usize) {
        state::driver()?.graph_execs.remove(exec).map(drop)
    }

    fn cuGraphDestroy(graph: usize) {
        state::driver()?.graphs.remove(graph).map(drop)
    }

    fn cuGraphGetNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        let graph = state::driver()?.graphs.get(graph)?;
        if !nodes.is_null() {
            nodes.set_array(graph.nodes.iter().map(|node| node.handle), count.get()?);
        }
        count.set(graph.nodes.len())
    }

    fn cuGraphGetRootNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        let graph = state::driver()?.graphs.get(graph)?;
        let roots: Vec<usize> = graph.nodes.iter().filter(|n| n.after.is_empty()).map(|n| n.handle).collect();
        if !nodes.is_null() {
            nodes.set_array(roots.iter().copied(), count.get()?);
        }
        count.set(roots.len())
    }

    fn cuGraphNodeGetType(node: usize, out: Out<i32>) {
        let graphs = state::driver()?.graphs.all();
        let found = graphs.iter().flat_map(|graph| graph.nodes.iter()).find(|n| n.handle == node);
        out.set(found.ok_or(Code::INVALID_HANDLE)?.work.node_type())
    }

    fn cuGraphExecGetFlags(exec: usize, flags: Out<u64>) {
        flags.set(state::driver()?.graph_execs.get(exec)?.flags)
    }

    fn cuGraphClone(out: Out<usize>, graph: usize) {
        let driver = state::driver()?;
        let graph = driver.graphs.get(graph)?;
        let handle = fresh_id();
        driver.graphs.insert(handle, Arc::new(Graph { handle, nodes: graph.nodes.clone(), memory: graph.memory.clone() }));
        out.set(handle)
    }

    fn cuGraphInstantiate_v2(out: Out<usize>, graph: usize, _error: Out<usize>, _log: In<u8>, _log_bytes: usize) {
        out.set(instantiate(graph, 0)?)
    }
}
