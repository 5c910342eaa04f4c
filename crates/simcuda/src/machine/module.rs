//! Loaded PTX modules and their entries.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::decode::{Symbol, Symbols, align_up, decode};
use super::error::PtxError;
use super::exec::Code;
use super::memory::Memory;
use super::parse::ast::{Ast, Init, Space, Var};

/// One kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Offset in the argument buffer.
    pub offset_bytes: usize,
    /// Size of the argument.
    pub size_bytes: usize,
    /// Alignment of the argument.
    pub align_bytes: usize,
}

/// Registers of a kernel as its machine code states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledRegisters {
    /// 32-bit registers per thread.
    pub count: u32,
    /// Compute capability of the machine code, as 80 or 90.
    pub arch: u32,
}

/// One entry of a module.
pub struct Function {
    /// Name of the entry.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Size of the argument buffer.
    pub param_bytes: usize,
    /// Static shared memory per block.
    pub static_shared_bytes: usize,
    /// Constant memory of the module.
    pub const_bytes: usize,
    /// Local memory per thread.
    pub local_bytes: usize,
    /// 32-bit registers per thread: as the compiler settled them, or an estimate of that: those live at once in the PTX, as far
    /// as a thread can have them beside the others of its block.
    pub registers: u32,
    /// Compute capability of the machine code that states `registers`, as 80 or 90; `None` where they are an estimate.
    pub registers_arch: Option<u32>,
    /// Where `registers` are an estimate: values beyond them that are live at once, which a compiler would spill.
    pub spilled_registers: u32,
    /// Most threads per block.
    pub max_threads: u32,
    /// Cluster shape the kernel demands.
    pub cluster: Option<[u32; 3]>,
    /// Compute capability of the PTX target, as 80 or 90.
    pub arch: u32,
    pub(crate) code: Arc<Code>,
    pub(crate) files: Arc<Vec<(u32, String)>>,
    /// The code holds addresses of the module's variables.
    _variables: Arc<Variables>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).field("params", &self.params).finish_non_exhaustive()
    }
}

/// Variables of a module in device memory, freed with the last of the module and its functions.
#[derive(Debug)]
struct Variables {
    memory: Memory,
    /// name, address, size
    list: Vec<(String, u64, usize)>,
}

impl Drop for Variables {
    fn drop(&mut self) {
        for (_, address, _) in &self.list {
            // Each address came from this memory and is freed once.
            let _ = self.memory.free(*address);
        }
    }
}

/// A PTX module in device memory.
#[derive(Debug)]
pub struct Module {
    functions: Vec<Arc<Function>>,
    variables: Arc<Variables>,
    target: u32,
}

/// Most threads of a block of a kernel that does not say less.
const MAX_THREADS: u32 = 1024;

impl Module {
    /// Reads PTX, places its variables in `memory` and decodes its entries.
    ///
    /// # Errors
    /// Returns [`PtxError`] for text that is not PTX, with its line.
    pub fn load(memory: &Memory, ptx: &str, name: &str) -> Result<Arc<Self>, PtxError> {
        Self::load_compiled(memory, ptx, name, &HashMap::new())
    }

    /// Reads PTX like [`load`](Self::load), with what machine code of the same source says of entries, by name.
    ///
    /// # Errors
    /// Returns [`PtxError`] for text that is not PTX, with its line.
    pub fn load_compiled(
        memory: &Memory,
        ptx: &str,
        name: &str,
        compiled: &HashMap<String, CompiledRegisters>,
    ) -> Result<Arc<Self>, PtxError> {
        let error =
            |(line, message): (u32, String)| PtxError { module: name.into(), line, message, out_of_memory: false };
        let ast = super::parse::parse(ptx).map_err(error)?;
        let (symbols, variables) = place_variables(memory, &ast, name)?;
        let files = ast.files.iter().map(|(&number, &path)| (number, path.to_owned())).collect();
        let variables = Arc::new(variables);
        let (files, mut functions) = (Arc::new(files), Vec::new());
        let in_const = ast.vars.iter().filter(|v| v.space == Space::Const);
        let const_bytes = in_const.fold(0, |end, v| align_up(end, v.align_bytes) + v.size_bytes);
        for entry in ast.funcs.iter().filter(|f| f.is_entry && !f.is_prototype) {
            let decoded = decode(&ast, entry, &symbols).map_err(error)?;
            let compiled = compiled.get(entry.name);
            let param = |&(offset_bytes, size_bytes, align_bytes)| Param { offset_bytes, size_bytes, align_bytes };
            functions.push(Arc::new(Function {
                name: entry.name.to_owned(),
                params: decoded.params.iter().map(param).collect(),
                param_bytes: decoded.param_bytes,
                static_shared_bytes: decoded.shared_bytes,
                const_bytes,
                local_bytes: decoded.local_bytes,
                registers: compiled.map_or(decoded.registers, |known| known.count),
                registers_arch: compiled.map(|known| known.arch),
                spilled_registers: compiled.map_or(decoded.spilled, |_| 0),
                max_threads: entry.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS),
                cluster: entry.cluster,
                arch: ast.arch,
                code: Arc::new(decoded.code),
                files: Arc::clone(&files),
                _variables: Arc::clone(&variables),
            }));
        }
        Ok(Arc::new(Self { functions, variables, target: ast.arch }))
    }

    /// Finds an entry by name.
    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.functions.iter().find(|f| f.name == name).cloned()
    }

    /// Lists the entries in the order of the text.
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.functions
    }

    /// Finds a module variable by name: its address and size in bytes.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        self.variables.list.iter().find(|v| v.0 == name).map(|v| (v.1, v.2))
    }

    /// Tells the compute capability of the PTX target, as 80 or 90.
    pub fn target(&self) -> u32 {
        self.target
    }
}

/// Allocates and initialises the variables of a module.
fn place_variables<'a>(memory: &Memory, ast: &Ast<'a>, name: &str) -> Result<(Symbols<'a>, Variables), PtxError> {
    let mut symbols: Symbols<'a> = HashMap::new();
    let mut variables = Variables { memory: memory.clone(), list: Vec::new() };
    let fail = |var: &Var<'_>, message: String, out_of_memory: bool| {
        Err(PtxError { module: name.into(), line: var.line, message, out_of_memory })
    };
    for (index, var) in ast.vars.iter().enumerate() {
        if var.space == Space::Shared {
            symbols.insert(var.name, Symbol::Shared(index));
            continue;
        }
        if var.is_extern {
            return fail(var, format!("expected `{}` to be defined in the module", var.name), false);
        }
        let Some(address) = memory.alloc(var.size_bytes.max(1)) else {
            return fail(var, format!("expected {} bytes of free memory for `{}`", var.size_bytes, var.name), true);
        };
        variables.list.push((var.name.to_owned(), address, var.size_bytes));
        symbols.insert(var.name, Symbol::Global(address, var.size_bytes));
    }
    for var in ast.vars.iter().filter(|v| v.space != Space::Shared) {
        let mut bytes = vec![0u8; var.size_bytes];
        for (chunk, init) in bytes.chunks_exact_mut(var.elem_bytes.max(1)).zip(&var.init) {
            let value = match init {
                Init::Bits(bits) => *bits,
                Init::Address(target, offset) => match symbols.get(target) {
                    Some(Symbol::Global(address, _)) => address.wrapping_add(*offset as u64),
                    _ => return fail(var, format!("expected a variable in the initialiser, got `{target}`"), false),
                },
            };
            let take = chunk.len().min(8);
            chunk[..take].copy_from_slice(&value.to_le_bytes()[..take]);
        }
        let Some(Symbol::Global(address, _)) = symbols.get(var.name) else { continue };
        // The range was allocated above with this size.
        let _ = memory.write(*address, &bytes);
    }
    Ok((symbols, variables))
}
