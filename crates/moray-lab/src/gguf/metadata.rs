//! Typed key/value pairs of a GGUF file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::cursor::Cursor;
use crate::error::{Error, Result};

/// Arrays may hold arrays; deeper nesting than this has no use and would cost stack.
const MAX_NESTING: usize = 8;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of their ids in the file.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self> {
        let id = cursor.u32(what)?;
        let known = usize::try_from(id).ok().and_then(|id| Self::ALL.get(id).copied());
        known.ok_or_else(|| Error::malformed(cursor.path(), what, "a value type from 0 to 12", id))
    }

    /// Bytes of one value, or None where it depends on the value.
    fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The fewest bytes one value can take: a string is at least its length, an array its type and length.
    fn min_size(self) -> usize {
        self.size().unwrap_or(if self == Self::String { 8 } else { 12 })
    }
}

/// One value. Numbers are widened without loss.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Value<'a> {
    /// U8, U16, U32 or U64.
    Unsigned(u64),
    /// I8, I16, I32 or I64.
    Signed(i64),
    /// F32 or F64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(&'a str),
    /// Several values of one type.
    Array(Array<'a>),
}

/// Several values of one type, read as they are asked for.
#[derive(Debug, Clone)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    values: Cursor<'a>,
}

impl<'a> Array<'a> {
    /// The type of every element.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the elements in order. Strings are checked here to be UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>>> + use<'a> {
        let (mut cursor, element) = (self.values.clone(), self.element);
        (0..self.len).map(move |_| read_value(&mut cursor, element, "array element", 0))
    }
}

/// Where one value lies in the file.
#[derive(Debug, Clone)]
struct Entry {
    value_type: ValueType,
    range: Range<usize>,
}

/// The pairs of a file, as positions: the bytes are passed in again to read a value.
#[derive(Debug, Default)]
pub struct Metadata {
    entries: BTreeMap<String, Entry>,
}

impl Metadata {
    /// Walks over `count` pairs, checking every length on the way.
    pub(crate) fn parse(cursor: &mut Cursor<'_>, count: usize) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = cursor.string("metadata key")?;
            let value_type = ValueType::read(cursor, key)?;
            let start = cursor.position();
            skip_value(cursor, value_type, key, 0)?;
            let entry = Entry { value_type, range: start..cursor.position() };
            if entries.insert(key.to_owned(), entry).is_some() {
                return Err(Error::malformed(cursor.path(), key, "each key once", "a duplicate"));
            }
        }
        Ok(Self { entries })
    }

    /// The keys in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Reads one value; None if the key is absent. `bytes` is the file the pairs were parsed from.
    ///
    /// # Errors
    /// [`Error::Malformed`] if a string is not UTF-8 or a truth value is neither 0 nor 1.
    pub fn get<'a>(&self, path: &'a Path, bytes: &'a [u8], key: &str) -> Result<Option<Value<'a>>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let mut cursor = Cursor::new(path, bytes, entry.range.start);
        read_value(&mut cursor, entry.value_type, key, 0).map(Some)
    }

    /// The bytes that a value occupies in the file.
    pub fn range(&self, key: &str) -> Option<Range<usize>> {
        self.entries.get(key).map(|entry| entry.range.clone())
    }
}

fn check_depth(cursor: &Cursor<'_>, what: &str, depth: usize) -> Result<()> {
    if depth < MAX_NESTING {
        return Ok(());
    }
    Err(Error::unsupported(cursor.path(), what, format!("arrays nested at most {MAX_NESTING} deep"), "more"))
}

fn read_array_header(cursor: &mut Cursor<'_>, what: &str) -> Result<(ValueType, usize)> {
    let element = ValueType::read(cursor, what)?;
    let len = cursor.count(element.min_size() as u64, what)?;
    Ok((element, len))
}

fn skip_value(cursor: &mut Cursor<'_>, value_type: ValueType, what: &str, depth: usize) -> Result<()> {
    match value_type {
        ValueType::String => cursor.string_bytes(what).map(drop),
        ValueType::Array => {
            check_depth(cursor, what, depth)?;
            let (element, len) = read_array_header(cursor, what)?;
            skip_elements(cursor, element, len, what, depth + 1)
        }
        fixed => cursor.take(fixed.min_size() as u64, what).map(drop),
    }
}

fn skip_elements(cursor: &mut Cursor<'_>, element: ValueType, len: usize, what: &str, depth: usize) -> Result<()> {
    match element.size() {
        // `len` was checked against the bytes left, so the product cannot overflow.
        Some(size) => cursor.take((len * size) as u64, what).map(drop),
        None => (0..len).try_for_each(|_| skip_value(cursor, element, what, depth)),
    }
}

fn read_value<'a>(cursor: &mut Cursor<'a>, value_type: ValueType, what: &str, depth: usize) -> Result<Value<'a>> {
    let Some(size) = value_type.size() else {
        if value_type == ValueType::String {
            return Ok(Value::String(cursor.string(what)?));
        }
        check_depth(cursor, what, depth)?;
        let (element, len) = read_array_header(cursor, what)?;
        let values = cursor.clone();
        skip_elements(cursor, element, len, what, depth + 1)?;
        return Ok(Value::Array(Array { element, len, values }));
    };
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(cursor.take(size as u64, what)?);
    let bits = u64::from_le_bytes(wide);
    Ok(match value_type {
        ValueType::I8 => Value::Signed(i64::from(bits as i8)),
        ValueType::I16 => Value::Signed(i64::from(bits as i16)),
        ValueType::I32 => Value::Signed(i64::from(bits as i32)),
        ValueType::I64 => Value::Signed(bits as i64),
        ValueType::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
        ValueType::F64 => Value::Float(f64::from_bits(bits)),
        ValueType::Bool if bits < 2 => Value::Bool(bits == 1),
        ValueType::Bool => return Err(Error::malformed(cursor.path(), what, "a truth value 0 or 1", bits)),
        _ => Value::Unsigned(bits),
    })
}
