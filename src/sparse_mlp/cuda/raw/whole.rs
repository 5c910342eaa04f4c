//! Both parts of a call of one token in one launch.

use super::{Down, GateUp};
use crate::device::{Address, Buffer, Device, Enqueue, Queue};
use crate::error::Result;
use crate::sparse_mlp::cuda::mirror::WholeParams;
use crate::sparse_mlp::cuda::variant;

/// [`GateUp`] and the [`Down`] of its hidden, of one token: in one launch whose blocks wait for each other on a device that has such and a
/// multiprocessor for each, and in two on others, with the same numbers.
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
        let multiprocessors = queue.device().multiprocessors();
        let [most, _] = variant::gate_up(gate_up.format, 1, gate_up.shape.d_ff, multiprocessors as usize).grid;
        // as many as a plan, perhaps for another device, has maxima for, each of which is down's
        let blocks = gate_up.maxima.map_or(most, |maxima| maxima.count as u32);
        if !queue.device().launches_together() || blocks > multiprocessors {
            gate_up.enqueue(queue)?;
            return down.enqueue(queue);
        }
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
