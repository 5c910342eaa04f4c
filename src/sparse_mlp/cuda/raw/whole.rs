//! Both parts of a call of one token in one launch.

use super::{Down, GateUp};
use crate::device::{Address, Buffer, Device, Enqueue, Queue};
use crate::error::Result;
use crate::sparse_mlp::cuda::mirror::WholeParams;
use crate::sparse_mlp::cuda::variant;

/// [`GateUp`] and the [`Down`] of its hidden, of one token: in one launch whose blocks wait for each other on a device that has such, and in
/// two on others, with the same numbers.
pub(super) struct Whole {
    /// With gate and up.
    pub(super) gate_up: GateUp,
    pub(super) down: Down,
    /// u32 \[2\]: zeros before the first call, and left so.
    pub(super) arrived: Address<u32>,
}

impl Enqueue for Whole {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        self.gate_up.check_sizes(device)?;
        self.down.check_sizes(device)
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        self.gate_up.name_buffers(device, show);
        self.down.name_buffers(device, show);
        show(Buffer::write("together", self.arrived, 2));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let Self { gate_up, down, arrived } = self;
        if !queue.device().launches_together() {
            gate_up.enqueue(queue)?;
            return down.enqueue(queue);
        }
        let multiprocessors = queue.device().multiprocessors() as usize;
        // as many as gate and up have: the maxima of each are down's
        let [blocks, _] = variant::gate_up(gate_up.format, 1, gate_up.shape.d_ff, multiprocessors).grid;
        let params = WholeParams {
            gate_up: gate_up.params(),
            down: down.params(),
            arrived: arrived.get(),
            splits: down.splits as u32,
            reserved: 0,
        };
        queue.launch_together(variant::whole(gate_up.format), [blocks, 1, 1], params)
    }
}
