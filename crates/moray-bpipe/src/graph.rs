//! The dependency graph of a schedule: operations, what they wait for, and what they do to memory.

use crate::cluster::Link;
use crate::memory::{partner, peak_1f1b};
use crate::op::{Op, OpKind};
use crate::pipeline::{Pipeline, StageCost};
use crate::program::Program;
use std::collections::{HashMap, VecDeque};

/// A change of a device's activation memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// The device.
    pub device: u32,
    /// The activations of one chunk and one micro-batch, in bytes.
    pub bytes: u64,
}

/// One operation of the graph.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// The device whose program it is in.
    pub device: u32,
    /// What it does.
    pub op: Op,
    /// The stream it runs on, in order: a device's compute stream or a link's direction.
    pub stream: u32,
    /// How long it runs, in ns.
    pub duration_ns: u64,
    /// The buffer it fills, taken when it starts.
    pub takes: Option<Buffer>,
    /// The buffer it is the last to read, given back when it ends.
    pub gives: Option<Buffer>,
}

/// A wait: the successor starts no sooner than `delay_ns` after the predecessor's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The node waited for.
    pub from: u32,
    /// The node that waits.
    pub to: u32,
    /// Time on the way in ns.
    pub delay_ns: u64,
    /// Whether it is for a transfer or a buffer rather than for data of the pipeline.
    pub memory: bool,
}

/// A schedule's operations and waits.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Operations.
    pub nodes: Vec<Node>,
    /// Waits, sorted by the node waited for.
    pub edges: Vec<Edge>,
    /// Where each node's outgoing edges start, one more than nodes.
    pub edge_start: Vec<u32>,
    /// Inputs each node waits for; those no operation provides are counted, so their node never starts.
    pub inputs: Vec<u32>,
    /// The nodes of each stream in order.
    pub streams: Vec<Vec<u32>>,
}

const NONE: u32 = u32::MAX;

/// Builds the graph of a program over a pipeline.
pub fn build(pipeline: &Pipeline, program: &Program) -> Graph {
    let mut builder = Builder::new(pipeline, program);
    for device in 0..pipeline.depth() {
        builder.add_device(device);
    }
    builder.connect_pipeline();
    for device in 0..pipeline.depth() {
        builder.connect_buffers(device);
    }
    builder.finish()
}

struct Builder<'a> {
    pipeline: &'a Pipeline,
    program: &'a Program,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    missing: Vec<u32>,
    streams: Vec<Vec<u32>>,
    /// Node of forward and of gradient, per virtual stage and micro-batch.
    forward: Vec<u32>,
    gradient: Vec<u32>,
    /// First node of each device; a program's nodes are consecutive.
    first: Vec<u32>,
}

impl<'a> Builder<'a> {
    fn new(pipeline: &'a Pipeline, program: &'a Program) -> Self {
        let p = pipeline.depth();
        let slots = (p * program.chunks) as usize * pipeline.micro_batches as usize;
        Self {
            pipeline,
            program,
            nodes: Vec::with_capacity(program.orders.iter().map(Vec::len).sum()),
            edges: Vec::new(),
            missing: Vec::new(),
            // A device's compute, its evictions and its loads.
            streams: vec![Vec::new(); 3 * p as usize],
            forward: vec![NONE; slots],
            gradient: vec![NONE; slots],
            first: Vec::new(),
        }
    }

    /// The index of a virtual stage's micro-batch, none when the micro-batch does not exist.
    fn slot(&self, virtual_stage: u32, micro_batch: u32) -> Option<usize> {
        let m = self.pipeline.micro_batches;
        (micro_batch < m).then(|| virtual_stage as usize * m as usize + micro_batch as usize)
    }

    fn add_device(&mut self, device: u32) {
        let program = self.program;
        let p = self.pipeline.depth();
        let costs: Vec<StageCost> = (0..program.chunks)
            .map(|chunk| self.pipeline.chunk_cost(program.layout, program.chunks, device, chunk))
            .collect();
        let other = partner(p, device).unwrap_or(device);
        let link = self.pipeline.cluster.link(p, device, other).unwrap_or(Link::FREE);
        self.first.push(self.nodes.len() as u32);
        for &op in &program.orders[device as usize] {
            let id = self.nodes.len() as u32;
            let node = self.node(device, op, &costs[usize::from(op.chunk)], other, link);
            self.streams[node.stream as usize].push(id);
            self.nodes.push(node);
            let virtual_stage = program.layout.virtual_stage(p, device, u32::from(op.chunk));
            let Some(slot) = self.slot(virtual_stage, op.micro_batch) else { continue };
            match op.kind {
                OpKind::Forward => self.forward[slot] = id,
                OpKind::Backward | OpKind::InputGrad => self.gradient[slot] = id,
                _ => {}
            }
        }
    }

    fn node(&self, device: u32, op: Op, cost: &StageCost, other: u32, link: Link) -> Node {
        let p = self.pipeline.depth();
        let here = Some(Buffer { device, bytes: cost.activation_bytes });
        let there = Some(Buffer { device: other, bytes: cost.activation_bytes });
        let load_stream = if self.pipeline.cluster.half_duplex { p + device } else { 2 * p + device };
        let (stream, duration_ns, takes, gives) = match op.kind {
            OpKind::Forward => (device, cost.forward_ns, here, None),
            OpKind::Backward => (device, cost.backward_ns(), None, here),
            OpKind::InputGrad => (device, cost.input_grad_ns, None, None),
            OpKind::WeightGrad => (device, cost.weight_grad_ns, None, here),
            OpKind::Evict => (p + device, link.duration_ns(cost.activation_bytes), there, here),
            OpKind::Load => (load_stream, link.duration_ns(cost.activation_bytes), here, there),
        };
        Node { device, op, stream, duration_ns, takes, gives }
    }

    /// Adds a wait for `from`, or notes that nothing provides it.
    fn wait(&mut self, from: u32, to: u32, delay_ns: u64, memory: bool) {
        if from == NONE {
            self.missing.push(to);
        } else {
            self.edges.push(Edge { from, to, delay_ns, memory });
        }
    }

    /// Forwards wait for the previous virtual stage, gradients for the next one and for their own forward.
    fn connect_pipeline(&mut self) {
        let (p, layout, chunks) = (self.pipeline.depth(), self.program.layout, self.program.chunks);
        let last = p * chunks - 1;
        for id in 0..self.nodes.len() as u32 {
            let Node { device, op, .. } = self.nodes[id as usize];
            let vs = layout.virtual_stage(p, device, u32::from(op.chunk));
            let at = |table: &[u32], vs| self.slot(vs, op.micro_batch).map_or(NONE, |slot| table[slot]);
            let hop = |other| self.pipeline.boundary_ns(layout.device(p, other), device);
            let (own_forward, own_gradient) = (at(&self.forward, vs), at(&self.gradient, vs));
            match op.kind {
                OpKind::Forward if vs > 0 => self.wait(at(&self.forward, vs - 1), id, hop(vs - 1), false),
                OpKind::Backward | OpKind::InputGrad => {
                    if vs < last {
                        self.wait(at(&self.gradient, vs + 1), id, hop(vs + 1), false);
                    }
                    self.wait(own_forward, id, 0, false);
                }
                OpKind::WeightGrad => self.wait(own_gradient, id, 0, false),
                _ => {}
            }
        }
    }

    /// Gives every buffer of an evictor, and every buffer its acceptor sets aside for it, to one operation after the
    /// other: who takes it waits for who gave it back. Also orders each micro-batch's forward, eviction, load and
    /// backward.
    fn connect_buffers(&mut self, device: u32) {
        let (p, m) = (self.pipeline.depth(), self.pipeline.micro_batches);
        let order = &self.program.orders[device as usize];
        let (Some(cap), Some(other)) = (self.program.cap, partner(p, device)) else { return };
        if !order.iter().any(|op| op.kind.is_transfer()) {
            return;
        }
        let aside = cap.saturating_sub(peak_1f1b(p, m, other));
        let mut local: VecDeque<u32> = vec![NONE; cap as usize].into();
        let mut foreign: VecDeque<u32> = vec![NONE; aside as usize].into();
        let mut holder: HashMap<u32, u32> = HashMap::new();
        for (id, op) in (self.first[device as usize]..).zip(order.iter()) {
            let pool = if op.kind == OpKind::Evict { &mut foreign } else { &mut local };
            if matches!(op.kind, OpKind::Forward | OpKind::Evict | OpKind::Load) {
                // An empty pool would be a plan that exceeds its cap: then nothing provides the buffer.
                match pool.pop_front() {
                    Some(NONE) => {}
                    Some(giver) => self.edges.push(Edge { from: giver, to: id, delay_ns: 0, memory: true }),
                    None => self.missing.push(id),
                }
            }
            if op.kind != OpKind::Forward {
                let from = holder.get(&op.micro_batch).copied().unwrap_or(NONE);
                self.wait(from, id, 0, true);
            }
            match op.kind {
                OpKind::Load => foreign.push_back(id),
                OpKind::Forward => {}
                _ => local.push_back(id),
            }
            holder.insert(op.micro_batch, id);
        }
    }

    /// Sorts the edges by the node waited for, by counting.
    fn finish(self) -> Graph {
        let mut inputs = vec![0_u32; self.nodes.len()];
        let mut edge_start = vec![0_u32; self.nodes.len() + 1];
        for edge in &self.edges {
            inputs[edge.to as usize] += 1;
            edge_start[edge.from as usize + 1] += 1;
        }
        for id in 0..self.nodes.len() {
            edge_start[id + 1] += edge_start[id];
        }
        for &id in &self.missing {
            inputs[id as usize] += 1;
        }
        let mut next = edge_start.clone();
        let mut edges = self.edges.clone();
        for edge in self.edges {
            let place = &mut next[edge.from as usize];
            edges[*place as usize] = edge;
            *place += 1;
        }
        Graph { nodes: self.nodes, edges, edge_start, inputs, streams: self.streams }
    }
}
