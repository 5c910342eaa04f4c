//! Calls that put graphs together node by node.

use std::ffi::c_void;
use std::sync::Arc;

use super::copy::{Box3, fill, layer};
use super::graph::{owner, put_list};
use super::launch::{Request, prepare};
use crate::driver::abi::{Bytes, HostCall, In, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::object::graph::Graph;
use crate::driver::object::work::Work;
use crate::driver::state::driver;

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelNode {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    params: In<Bytes>,
    extra: In<Bytes>,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2` and `_v3`.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelNode2 {
    node: KernelNode,
    /// In place of the function.
    kernel: usize,
    context: usize,
}

impl KernelNode {
    fn work(&self) -> Result<Work> {
        let &Self { grid, block, dynamic_shared_bytes, .. } = self;
        let request = Request { grid, block, cluster: None, dynamic_shared_bytes, cooperative: false };
        prepare(self.function, &request, &self.params, &self.extra)
    }
}

impl KernelNode2 {
    fn work(&self) -> Result<Work> {
        let function = if self.node.function == 0 { self.kernel } else { self.node.function };
        KernelNode { function, ..self.node }.work()
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FillNode {
    dst: u64,
    pitch: usize,
    value: u32,
    element_bytes: u32,
    width: usize,
    height: usize,
}

impl FillNode {
    fn work(&self) -> Result<Work> {
        if !matches!(self.element_bytes, 1 | 2 | 4) {
            return Err(Code::INVALID_VALUE
                .because(format!("expected elements of 1, 2 or 4 bytes, got {}", self.element_bytes)));
        }
        let fill = fill(self.dst, self.pitch, self.value, self.element_bytes as usize, self.width, self.height)?;
        Ok(fill.map_or(Work::Nothing, Work::Fill))
    }
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HostNode {
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: usize,
}

impl HostNode {
    fn work(&self) -> Result<Work> {
        if self.function.is_none() {
            return Err(Code::INVALID_VALUE.because("expected a host function, got null"));
        }
        Ok(Work::Host(HostCall { function: self.function, argument: self.argument }))
    }
}

fn handles(list: &In<usize>, count: usize) -> Result<Vec<usize>> {
    (0..count).map(|i| list.at(i)).collect()
}

/// Adds a node to a graph behind those it depends on.
fn add(out: &Out<usize>, graph: usize, after: &In<usize>, count: usize, work: Work) -> Result<()> {
    let graph = driver()?.graphs.get(graph)?;
    out.set(graph.add(work, &handles(after, count)?)?)
}

fn change_edges(
    graph: usize,
    from: &In<usize>,
    to: &In<usize>,
    count: usize,
    change: impl Fn(&Graph, usize, usize) -> Result<()>,
) -> Result<()> {
    let graph = driver()?.graphs.get(graph)?;
    (0..count).try_for_each(|i| change(&graph, from.at(i)?, to.at(i)?))
}

/// Tells a graph's edges; edges carry no data here, which is zero then.
fn edges(graph: usize, from: &Out<usize>, to: &Out<usize>, data: Option<&Out<u64>>, count: &Out<usize>) -> Result<()> {
    let nodes = driver()?.graphs.get(graph)?.nodes();
    let all = || nodes.iter().flat_map(|node| node.after.iter().map(|&at| (nodes[at].handle, node.handle)));
    if let (Some(data), false) = (data, from.is_null()) {
        data.set_array(all().map(|_| 0), count.get()?);
    }
    if !to.is_null() {
        to.set_array(all().map(|edge| edge.1), count.get()?);
    }
    put_list(from, count, all().map(|edge| edge.0).collect())
}

/// The nodes that a node comes after.
fn earlier(node: usize) -> Result<Vec<usize>> {
    let nodes = owner(node)?.nodes();
    let found = nodes.iter().find(|n| n.handle == node).ok_or(Code::INVALID_HANDLE)?;
    Ok(found.after.iter().map(|&at| nodes[at].handle).collect())
}

/// The nodes that come after a node.
fn later(node: usize) -> Result<Vec<usize>> {
    let nodes = owner(node)?.nodes();
    let comes_after =
        |other: &&crate::driver::object::work::Node| other.after.iter().any(|&at| nodes[at].handle == node);
    Ok(nodes.iter().filter(comes_after).map(|n| n.handle).collect())
}

fn put_neighbours(out: &Out<usize>, data: &Out<u64>, count: &Out<usize>, list: Vec<usize>) -> Result<()> {
    if !out.is_null() {
        data.set_array(list.iter().map(|_| 0), count.get()?);
    }
    put_list(out, count, list)
}

api! {
    fn cuGraphCreate(out: Out<usize>, flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE.into());
        }
        let driver = driver()?;
        let graph = Arc::new(Graph::new(&driver.device, Vec::new(), Vec::new()));
        driver.graphs.insert(graph.handle, graph.clone());
        out.set(graph.handle)
    }

    fn cuGraphAddKernelNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<KernelNode>) {
        add(&out, graph, &after, count, params.get()?.work()?)
    }

    fn cuGraphAddKernelNode_v2(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<KernelNode2>) {
        add(&out, graph, &after, count, params.get()?.work()?)
    }

    fn cuGraphAddMemcpyNode(
        out: Out<usize>, graph: usize, after: In<usize>, count: usize, copy: In<Box3>, _context: usize
    ) {
        add(&out, graph, &after, count, layer(&copy.get()?)?)
    }

    fn cuGraphAddMemsetNode(
        out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<FillNode>, _context: usize
    ) {
        add(&out, graph, &after, count, params.get()?.work()?)
    }

    fn cuGraphAddHostNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<HostNode>) {
        add(&out, graph, &after, count, params.get()?.work()?)
    }

    fn cuGraphAddChildGraphNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, child: usize) {
        let child = driver()?.graphs.get(child)?.instantiate(0);
        add(&out, graph, &after, count, Work::Nodes(child.nodes()))
    }

    fn cuGraphAddEmptyNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize) {
        add(&out, graph, &after, count, Work::Nothing)
    }

    fn cuGraphDestroyNode(node: usize) {
        owner(node)?.remove(node)
    }

    fn cuGraphAddDependencies(graph: usize, from: In<usize>, to: In<usize>, count: usize) {
        change_edges(graph, &from, &to, count, Graph::connect)
    }

    fn cuGraphAddDependencies_v2(graph: usize, from: In<usize>, to: In<usize>, _data: In<u64>, count: usize) {
        change_edges(graph, &from, &to, count, Graph::connect)
    }

    fn cuGraphRemoveDependencies(graph: usize, from: In<usize>, to: In<usize>, count: usize) {
        change_edges(graph, &from, &to, count, Graph::disconnect)
    }

    fn cuGraphRemoveDependencies_v2(graph: usize, from: In<usize>, to: In<usize>, _data: In<u64>, count: usize) {
        change_edges(graph, &from, &to, count, Graph::disconnect)
    }

    fn cuGraphGetEdges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) {
        edges(graph, &from, &to, None, &count)
    }

    fn cuGraphGetEdges_v2(graph: usize, from: Out<usize>, to: Out<usize>, data: Out<u64>, count: Out<usize>) {
        edges(graph, &from, &to, Some(&data), &count)
    }

    fn cuGraphNodeGetDependencies(node: usize, nodes: Out<usize>, count: Out<usize>) {
        put_list(&nodes, &count, earlier(node)?)
    }

    fn cuGraphNodeGetDependencies_v2(node: usize, nodes: Out<usize>, data: Out<u64>, count: Out<usize>) {
        put_neighbours(&nodes, &data, &count, earlier(node)?)
    }

    fn cuGraphNodeGetDependentNodes(node: usize, nodes: Out<usize>, count: Out<usize>) {
        put_list(&nodes, &count, later(node)?)
    }

    fn cuGraphNodeGetDependentNodes_v2(node: usize, nodes: Out<usize>, data: Out<u64>, count: Out<usize>) {
        put_neighbours(&nodes, &data, &count, later(node)?)
    }

    fn cuGraphKernelNodeSetParams(node: usize, params: In<KernelNode>) {
        owner(node)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphKernelNodeSetParams_v2(node: usize, params: In<KernelNode2>) {
        owner(node)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphMemsetNodeSetParams(node: usize, params: In<FillNode>) {
        owner(node)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphMemcpyNodeSetParams(node: usize, copy: In<Box3>) {
        owner(node)?.replace(node, layer(&copy.get()?)?)
    }

    fn cuGraphHostNodeSetParams(node: usize, params: In<HostNode>) {
        owner(node)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphExecKernelNodeSetParams(exec: usize, node: usize, params: In<KernelNode>) {
        driver()?.graph_execs.get(exec)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: usize, node: usize, params: In<KernelNode2>) {
        driver()?.graph_execs.get(exec)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphExecMemsetNodeSetParams(exec: usize, node: usize, params: In<FillNode>, _context: usize) {
        driver()?.graph_execs.get(exec)?.replace(node, params.get()?.work()?)
    }

    fn cuGraphExecMemcpyNodeSetParams(exec: usize, node: usize, copy: In<Box3>, _context: usize) {
        driver()?.graph_execs.get(exec)?.replace(node, layer(&copy.get()?)?)
    }

    fn cuGraphExecHostNodeSetParams(exec: usize, node: usize, params: In<HostNode>) {
        driver()?.graph_execs.get(exec)?.replace(node, params.get()?.work()?)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn structures_match_the_sizes_of_the_c_header() {
        assert_eq!((size_of::<KernelNode>(), offset_of!(KernelNode, params)), (56, 40));
        assert_eq!((size_of::<KernelNode2>(), offset_of!(KernelNode2, kernel)), (72, 56));
        assert_eq!((size_of::<FillNode>(), offset_of!(FillNode, width)), (40, 24));
        assert_eq!(size_of::<Box3>(), 200);
    }
}
