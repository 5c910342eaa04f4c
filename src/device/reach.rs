//! Whose memory an address is, as the driver has it.

use super::context::{address_for_kernels, kind_of_memory, ordinal_of_memory};
use super::{Device, call, keeping_current};
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUdevice_attribute, CUresult};

/// What the driver says of host memory that it has pinned.
const HOST: u32 = 1;

impl Device {
    /// Asks the driver whether kernels of this device's context reach memory by its address: what it has allocated there, memory of another
    /// device that the context has access to, pinned and managed memory, and on machines whose devices read the process's memory all of that.
    /// Its first and its last byte are asked for. It may be asked in a capture, and the context that is current to the thread stays so.
    ///
    /// For engines that are handed addresses by others: raw calls rely on them, and a kernel that reads what it cannot reach leaves a context that is
    /// good for nothing.
    ///
    /// # Errors
    /// [`Error::Elsewhere`] with whose memory it is if kernels do not reach it, [`Error::Driver`] for any other refusal.
    ///
    /// # Example
    /// ```no_run
    /// # fn main() -> moray::Result<()> {
    /// let device = moray::Device::new(0)?;
    /// let of_the_process = vec![0.0f32; 64];
    /// println!("{}", device.check_memory("x", of_the_process.as_ptr().addr() as u64, 256).unwrap_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_memory(&self, what: &'static str, address: u64, bytes: usize) -> Result<()> {
        let ends = [(1, address), (2, address.saturating_add((bytes as u64).saturating_sub(1)))];
        keeping_current(|| {
            self.stream.context().bind_to_thread().map_err(call("bind the context"))?;
            ends.iter().filter(|(least, _)| bytes >= *least).try_for_each(|(_, end)| self.check_byte(what, *end))
        })
    }

    /// The same for one byte, with the context current.
    fn check_byte(&self, what: &'static str, address: u64) -> Result<()> {
        match address_for_kernels(address) {
            Ok(_) => Ok(()),
            Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)) => match self.owner(address) {
                Some(got) => Err(Error::Elsewhere { what, got }),
                None => Ok(()),
            },
            Err(error) => Err(call("ask whose memory an address is")(error)),
        }
    }

    /// Whose memory it is that kernels of the context do not reach; none where they read all memory of the process.
    fn owner(&self, address: u64) -> Option<String> {
        match (kind_of_memory(address), ordinal_of_memory(address)) {
            (Err(_), _) => {
                let pageable = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS;
                let reads_all = self.stream.context().attribute(pageable).is_ok_and(|reads| reads != 0);
                (!reads_all).then(|| format!("an address that the driver does not know, {address:#x}"))
            }
            (Ok(HOST), _) => Some("memory of the process that is not mapped for them".into()),
            (Ok(_), Ok(ordinal)) => Some(format!("memory of device {ordinal}")),
            (Ok(_), Err(_)) => Some("memory of another device".into()),
        }
    }
}
