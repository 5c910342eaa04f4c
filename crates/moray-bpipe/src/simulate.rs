//! The event-driven engine: runs a schedule's graph.

use crate::error::Error;
use crate::graph::{self, Buffer, Graph};
use crate::op::OpKind;
use crate::pipeline::Pipeline;
use crate::program::Program;
use crate::simulation::{MemorySample, Simulation, Span, StageReport};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Runs a program over a pipeline.
///
/// ```
/// use moray_bpipe::pipeline::{Pipeline, StageCost};
/// use moray_bpipe::{Schedule, simulate};
/// let cost = StageCost { forward_ns: 1, input_grad_ns: 1, ..StageCost::default() };
/// let pipeline = Pipeline::uniform(4, 4, cost);
/// let run = simulate(&pipeline, &Schedule::OneFOneB.program(&pipeline)?)?;
/// assert_eq!(run.makespan_ns, 2 * 4 + 2 * (4 - 1)); // 2m + 2(p − 1)
/// # Ok::<(), moray_bpipe::Error>(())
/// ```
///
/// # Errors
/// [`Error::Deadlock`] for a program that waits for itself or for an operation it does not have, and those of
/// [`Pipeline::check`] and [`Program::check`].
pub fn simulate(pipeline: &Pipeline, program: &Program) -> Result<Simulation, Error> {
    pipeline.check()?;
    program.check(pipeline)?;
    let graph = graph::build(pipeline, program);
    let mut engine = Engine::new(&graph, pipeline.stages.len());
    engine.run();
    engine.check_all_ran()?;
    Ok(engine.report(pipeline, program))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The node ends.
    End(u32),
    /// An input reaches the node; whether it is a transfer's.
    Arrive(u32, bool),
}

struct Engine<'g> {
    graph: &'g Graph,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    inputs: Vec<u32>,
    /// Per node: when the last input that is not a transfer's came.
    data_ns: Vec<u64>,
    start_ns: Vec<u64>,
    /// Per stream: position in its order, when it was last free, whether it runs.
    head: Vec<usize>,
    free_ns: Vec<u64>,
    running: Vec<bool>,
    stall_ns: Vec<u64>,
    ran: usize,
    memory: Vec<Vec<MemorySample>>,
    peak: Vec<(u32, u64)>,
}

impl<'g> Engine<'g> {
    fn new(graph: &'g Graph, devices: usize) -> Self {
        let (nodes, streams) = (graph.nodes.len(), graph.streams.len());
        let start = MemorySample { time_ns: 0, units: 0, bytes: 0 };
        Self {
            graph,
            events: BinaryHeap::new(),
            inputs: graph.inputs.clone(),
            data_ns: vec![0; nodes],
            start_ns: vec![0; nodes],
            head: vec![0; streams],
            free_ns: vec![0; streams],
            running: vec![false; streams],
            stall_ns: vec![0; devices],
            ran: 0,
            memory: vec![vec![start]; devices],
            peak: vec![(0, 0); devices],
        }
    }

    fn run(&mut self) {
        for stream in 0..self.graph.streams.len() {
            self.try_start(stream, 0);
        }
        let mut woken = Vec::new();
        while let Some(&Reverse((now, _))) = self.events.peek() {
            // All that ends now gives its buffers back before anything starts.
            while let Some(&Reverse((time, event))) = self.events.peek()
                && time == now
            {
                self.events.pop();
                match event {
                    Event::End(node) => self.end(node, now, &mut woken),
                    Event::Arrive(node, memory) => self.arrive(node, memory, now, &mut woken),
                }
            }
            for stream in woken.drain(..) {
                self.try_start(stream as usize, now);
            }
        }
    }

    fn try_start(&mut self, stream: usize, now: u64) {
        let Some(&node) = self.graph.streams[stream].get(self.head[stream]) else { return };
        if self.running[stream] || self.inputs[node as usize] > 0 {
            return;
        }
        let facts = &self.graph.nodes[node as usize];
        self.running[stream] = true;
        self.start_ns[node as usize] = now;
        if !facts.op.kind.is_transfer() {
            let could = self.data_ns[node as usize].max(self.free_ns[stream]);
            self.stall_ns[facts.device as usize] += now - could;
        }
        if let Some(buffer) = facts.takes {
            self.change_memory(buffer, now, true);
        }
        self.events.push(Reverse((now + facts.duration_ns, Event::End(node))));
    }

    fn end(&mut self, node: u32, now: u64, woken: &mut Vec<u32>) {
        let graph = self.graph;
        let facts = &graph.nodes[node as usize];
        let stream = facts.stream as usize;
        self.ran += 1;
        self.running[stream] = false;
        self.free_ns[stream] = now;
        self.head[stream] += 1;
        woken.push(facts.stream);
        if let Some(buffer) = facts.gives {
            self.change_memory(buffer, now, false);
        }
        let out = graph.edge_start[node as usize] as usize..graph.edge_start[node as usize + 1] as usize;
        for edge in &graph.edges[out] {
            if edge.delay_ns == 0 {
                self.arrive(edge.to, edge.memory, now, woken);
            } else {
                self.events.push(Reverse((now + edge.delay_ns, Event::Arrive(edge.to, edge.memory))));
            }
        }
    }

    fn arrive(&mut self, node: u32, memory: bool, now: u64, woken: &mut Vec<u32>) {
        self.inputs[node as usize] -= 1;
        if !memory {
            self.data_ns[node as usize] = now;
        }
        if self.inputs[node as usize] == 0 {
            woken.push(self.graph.nodes[node as usize].stream);
        }
    }

    fn change_memory(&mut self, buffer: Buffer, now: u64, taken: bool) {
        let samples = &mut self.memory[buffer.device as usize];
        let last = samples[samples.len() - 1];
        let (units, bytes) = if taken {
            (last.units + 1, last.bytes + buffer.bytes)
        } else {
            (last.units - 1, last.bytes - buffer.bytes)
        };
        let peak = &mut self.peak[buffer.device as usize];
        *peak = (peak.0.max(units), peak.1.max(bytes));
        let sample = MemorySample { time_ns: now, units, bytes };
        if last.time_ns == now {
            let end = samples.len() - 1;
            samples[end] = sample;
        } else {
            samples.push(sample);
        }
    }

    fn check_all_ran(&self) -> Result<(), Error> {
        let expected = self.graph.nodes.len();
        let waiting = self.graph.streams.iter().zip(&self.head).find_map(|(order, &head)| order.get(head));
        match waiting {
            None => Ok(()),
            Some(&node) => {
                let facts = &self.graph.nodes[node as usize];
                let (stage, waiting) = (facts.device as usize, facts.op.to_string());
                Err(Error::Deadlock { expected, got: self.ran, stage, waiting })
            }
        }
    }

    fn report(self, pipeline: &Pipeline, program: &Program) -> Simulation {
        let blank = |device: usize| StageReport {
            busy_ns: 0,
            stall_ns: self.stall_ns[device],
            evictions: 0,
            transfer_ns: 0,
            peak_micro_batches: f64::from(self.peak[device].0) / f64::from(program.chunks),
            peak_activation_bytes: self.peak[device].1,
            static_bytes: (0..program.chunks)
                .map(|chunk| pipeline.chunk_cost(program.layout, program.chunks, device as u32, chunk).static_bytes)
                .sum(),
        };
        let mut stages: Vec<StageReport> = (0..pipeline.stages.len()).map(blank).collect();
        let mut spans = Vec::with_capacity(self.graph.nodes.len());
        for (node, &start_ns) in self.graph.nodes.iter().zip(&self.start_ns) {
            let stage = &mut stages[node.device as usize];
            if node.op.kind.is_transfer() {
                stage.transfer_ns += node.duration_ns;
                stage.evictions += u32::from(node.op.kind == OpKind::Evict);
            } else {
                stage.busy_ns += node.duration_ns;
            }
            let end_ns = start_ns + node.duration_ns;
            spans.push(Span { device: node.device, op: node.op, start_ns, end_ns });
        }
        let makespan_ns = spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
        Simulation { makespan_ns, stages, spans, memory: self.memory }
    }
}
