//! The sandbox: the engine and its settings, and the store in which one instance runs with all its limits.
//! Does not know what a plugin exports.

use std::thread;

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig,
    ResourceLimiter, Store, Trap,
};

use super::contract::Level;
use super::limits::{Limits, TICK};
use super::outcome::FailureCode;
use super::words::Line;
use crate::error::{Error, Result};

/// Components that can be alive at once in one engine. A chain runs one at a time; the other is room to spare.
const INSTANCES: u32 = 2;

/// Core instances and tables per component: the plugin's module and the two that connect its imports, with room
/// to spare.
const PARTS: u32 = 8;

/// Memories per component: the plugin's module has one, and the address space for each is 4 GiB.
const MEMORIES: u32 = 1;

/// Entries in a table at most: function pointers of a plugin; the largest one measured has some thousands.
const TABLE_ELEMENTS: usize = 20_000;

/// Stack of a guest: a quarter of what a worker thread has.
const STACK_BYTES: usize = 512 << 10;

/// Memory of a finished instance that stays resident for the next one: page faults are what a fresh instance per
/// batch costs, and this takes most of them away.
const RESIDENT_BYTES: usize = 4 << 20;

/// Lines that are kept for whoever listens.
const HEARD_LINES: usize = 1000;

/// Starts an engine with the settings under which a plugin's output depends on nothing but its input, and
/// the thread that makes its clock tick.
pub(super) fn engine(limits: &Limits) -> Result<Engine> {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * PARTS)
        .total_tables(INSTANCES * PARTS)
        .total_memories(INSTANCES * MEMORIES)
        .max_memories_per_component(MEMORIES)
        .max_memory_size(limits.memory_max)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(RESIDENT_BYTES)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .max_wasm_stack(STACK_BYTES)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .concurrency_support(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).map_err(|e| {
        Error::internal("the sandbox for plugins can't be set up")
            .because(e)
            .hint("is the address space limited (`ulimit -v`)?")
    })?;
    let weak = engine.weak();
    thread::Builder::new()
        .name("plugin-clock".into())
        .spawn(move || tick(&weak))
        .map_err(|e| Error::internal("the clock of the plugin sandbox can't be started").because(e))?;
    Ok(engine)
}

/// Ticks until the engine is gone.
pub(super) fn tick(engine: &EngineWeak) {
    loop {
        thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
    }
}

/// What the host keeps for one running instance.
#[derive(Debug)]
pub(super) struct State {
    /// What it said, in order: the first lines of it.
    said: Vec<Line>,
    /// How many lines are kept.
    log_lines: usize,
    /// The last error it said: a panic's message comes last.
    last_error: Option<String>,
    memory: usize,
    exceeded: bool,
}

/// A store for one instance that will be given so many bytes of events: limits and deadline hold from here on, so
/// also for the code that runs when it is instantiated.
pub(super) fn store(engine: &Engine, limits: &Limits, input_bytes: usize) -> Store<State> {
    let memory = limits.memory_for(input_bytes);
    let log_lines = limits.log_lines;
    let state = State { said: Vec::new(), log_lines, last_error: None, memory, exceeded: false };
    let mut store = Store::new(engine, state);
    store.limiter(|state| state);
    store.set_epoch_deadline(limits.ticks_for(input_bytes));
    // What crosses to the host in one call lies in the guest's memory, so honest results never exceed this.
    store.set_hostcall_fuel(memory);
    store
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired <= self.memory, "memory")
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired <= TABLE_ELEMENTS, "table")
    }

    fn instances(&self) -> usize {
        PARTS as usize
    }

    fn tables(&self) -> usize {
        PARTS as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

impl State {
    /// Keeps more lines, for somebody who may know the events.
    pub(super) fn listen(&mut self) {
        self.log_lines = HEARD_LINES;
    }

    /// Whether a line of this level would be kept.
    pub(super) fn listens(&self, level: Level) -> bool {
        level == Level::Error || self.said.len() < self.log_lines
    }

    /// Keeps a line, which is cut already, within the number that is kept.
    pub(super) fn hear(&mut self, level: Level, said: String) {
        if level == Level::Error {
            self.last_error = Some(said.clone());
        }
        if self.said.len() < self.log_lines {
            self.said.push(Line { level, said });
        }
    }

    /// What it said, in order; bounded, and as it said it.
    pub(super) fn take_said(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.said)
    }

    /// Traps where a limit is exceeded: a guest that is told so aborts anyway, and then nobody knows why.
    fn grow(&mut self, allowed: bool, what: &str) -> wasmtime::Result<bool> {
        if allowed {
            return Ok(true);
        }
        self.exceeded = true;
        Err(wasmtime::Error::msg(format!("it wants a larger {what} than it may have")))
    }
}

/// Why a run ended without a result. The detail comes from the engine or the host, never from the guest; it is for
/// the time of loading, when there are no events.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: FailureCode,
    pub(super) detail: String,
    /// What the plugin said last, as it said it: it may quote an event.
    pub(super) said: Option<String>,
}

impl Fault {
    pub(super) fn new(code: FailureCode, detail: impl Into<String>) -> Self {
        Fault { code, detail: detail.into(), said: None }
    }
}

/// What an error of the engine means. `otherwise` is for those that are neither a trap nor a limit.
pub(super) fn fault(store: &Store<State>, error: &wasmtime::Error, otherwise: FailureCode) -> Fault {
    let code = if store.data().exceeded {
        FailureCode::Memory
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => FailureCode::Timeout,
            Some(_) => FailureCode::Trap,
            None => otherwise,
        }
    };
    let said = store.data().last_error.clone();
    Fault { said, ..Fault::new(code, error.root_cause().to_string()) }
}
