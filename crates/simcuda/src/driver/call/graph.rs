//! Calls on graphs.

use std::sync::Arc;

use crate::driver::abi::{In, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::object::graph::Graph;
use crate::driver::object::work::Work;
use crate::driver::registry::{fresh_id, lock};
use crate::driver::state::driver;
use crate::driver::streams;

const AUTO_FREE_ON_LAUNCH: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 15;

fn instantiate(graph: usize, flags: u64) -> Result<usize> {
    let driver = driver()?;
    let graph = driver.graphs.get(graph)?;
    if flags & !KNOWN_FLAGS != 0 || flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE_ON_LAUNCH != 0 {
        return Err(Code::INVALID_VALUE.because(format!("expected graph instantiation flags, got {flags:#x}")));
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Code::NOT_SUPPORTED.because("graphs launched by the device"));
    }
    let handle = fresh_id();
    driver.graph_execs.insert(handle, Arc::new(graph.instantiate(flags)));
    Ok(handle)
}

fn launch(exec: usize, stream: usize) -> Result<()> {
    let (driver, stream) = streams::find(stream)?;
    let exec = driver.graph_execs.get(exec)?;
    match stream.active_capture() {
        Some(capture) => capture.add(stream.handle, Work::Nodes(exec.nodes())).map(drop),
        None => {
            let before = lock(&exec.last).filter(|mark| mark.0 != stream.handle);
            let mark = driver.submit(&stream, Work::Nodes(exec.nodes()), before.into_iter().collect())?;
            *lock(&exec.last) = Some(mark);
            Ok(())
        }
    }
}

/// The graph that a node belongs to.
pub(super) fn owner(node: usize) -> Result<Arc<Graph>> {
    let holds = |graph: &Arc<Graph>| graph.nodes().iter().any(|n| n.handle == node);
    driver()?.graphs.all().into_iter().find(holds).ok_or_else(|| Code::INVALID_HANDLE.into())
}

/// Gives a list as CUDA does: without an array only its length, else as much as fits, with the rest of the array as null.
pub(super) fn put_list(out: &Out<usize>, count: &Out<usize>, list: Vec<usize>) -> Result<()> {
    if out.is_null() {
        return count.set(list.len());
    }
    let capacity = count.get()?;
    let length = list.len().min(capacity);
    out.set_array(list.into_iter().chain(std::iter::repeat(0)), capacity);
    count.set(length)
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
        let (driver, _) = streams::find(stream)?;
        driver.graph_execs.get(exec).map(drop)
    }

    fn cuGraphExecDestroy(exec: usize) {
        driver()?.graph_execs.remove(exec).map(drop)
    }

    fn cuGraphDestroy(graph: usize) {
        driver()?.graphs.remove(graph).map(drop)
    }

    fn cuGraphGetNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        let all = driver()?.graphs.get(graph)?.nodes();
        put_list(&nodes, &count, all.iter().map(|node| node.handle).collect())
    }

    fn cuGraphGetRootNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        let all = driver()?.graphs.get(graph)?.nodes();
        put_list(&nodes, &count, all.iter().filter(|n| n.after.is_empty()).map(|n| n.handle).collect())
    }

    fn cuGraphNodeGetType(node: usize, out: Out<i32>) {
        let nodes = owner(node)?.nodes();
        out.set(nodes.iter().find(|n| n.handle == node).ok_or(Code::INVALID_HANDLE)?.work.node_type())
    }

    fn cuGraphExecGetFlags(exec: usize, flags: Out<u64>) {
        flags.set(driver()?.graph_execs.get(exec)?.flags)
    }

    fn cuGraphClone(out: Out<usize>, graph: usize) {
        let driver = driver()?;
        let copy = Arc::new(driver.graphs.get(graph)?.duplicate());
        driver.graphs.insert(copy.handle, copy.clone());
        out.set(copy.handle)
    }

    fn cuGraphInstantiate_v2(out: Out<usize>, graph: usize, _error: Out<usize>, _log: In<u8>, _log_bytes: usize) {
        out.set(instantiate(graph, 0)?)
    }
}
