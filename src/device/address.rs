//! A typed address in device memory.

use std::marker::PhantomData;

/// Where elements of `T` begin in device memory: what raw calls take, so that memory can be an engine's own. `u8` stands for
/// elements whose type another field of the call names.
///
/// That there is memory at an address, and whose, is what the caller of an `unsafe` launch promises.
///
/// # Example
/// ```
/// use moray::device::Address;
///
/// let hidden = Address::<f32>::new(0x7f00_0000);
/// assert_eq!(hidden.offset(4).get(), 0x7f00_0010);
/// assert!(!hidden.is_null() && Address::<f32>::NULL.is_null());
/// ```
pub struct Address<T = u8> {
    address: u64,
    element: PhantomData<fn() -> T>,
}

impl<T> Address<T> {
    /// No memory: refused wherever memory is needed.
    pub const NULL: Self = Address::new(0);

    /// The address as the driver has it (`CUdeviceptr`).
    pub const fn new(address: u64) -> Self {
        Address { address, element: PhantomData }
    }

    /// The driver's number.
    pub const fn get(self) -> u64 {
        self.address
    }

    /// Whether this is [`Address::NULL`].
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// The address of a later element; past 2⁶⁴ it is null, which calls refuse.
    pub const fn offset(self, elems: usize) -> Self {
        let bytes = (elems as u64).checked_mul(size_of::<T>() as u64);
        match bytes {
            Some(bytes) => match self.address.checked_add(bytes) {
                Some(address) => Address::new(address),
                None => Self::NULL,
            },
            None => Self::NULL,
        }
    }

    /// The same address for elements of another type.
    pub const fn cast<U>(self) -> Address<U> {
        Address::new(self.address)
    }
}

impl<T> Clone for Address<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Address<T> {}

impl<T> PartialEq for Address<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for Address<T> {}

impl<T> std::fmt::Debug for Address<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({:#x})", self.address)
    }
}

/// The number that a kernel takes for memory that may be absent.
pub(crate) fn or_null<T>(address: Option<Address<T>>) -> u64 {
    address.map_or(0, Address::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_past_the_last_address_is_null() {
        assert_eq!(Address::<u32>::new(u64::MAX - 3).offset(1), Address::NULL);
        assert_eq!(Address::<u32>::new(16).offset(usize::MAX), Address::NULL);
        assert_eq!(format!("{:?}", Address::<f32>::new(16).offset(2)), "Address(0x18)");
    }
}
