//! One plugin as the host runs it: a compiled component, started afresh for every batch, and its one import, `log`.

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Linker, Lower,
    TypedFunc, WasmStr,
};
use wasmtime::{Engine, Store, StoreContextMut};

use super::contract::{BatchResult, EXPORTS, EventError, HOST, Level, Manifest};
use super::limits::{Limits, MAX_SAID};
use super::outcome::FailureCode;
use super::sandbox::{self, Fault, State};
use super::words::{Line, cut};

/// A plugin's code, checked and compiled.
pub(super) struct Program {
    engine: Engine,
    instance: InstancePre<State>,
    exports: [ComponentExportIndex; 3],
    limits: Limits,
}

/// One instance in its store. It lives for one batch, so nothing that a plugin remembers outlives it.
pub(super) struct Running<'p> {
    program: &'p Program,
    store: Store<State>,
    instance: Instance,
}

impl Program {
    /// Connects a component to the host. `Err` says what does not fit.
    pub(super) fn new(engine: &Engine, component: &Component, limits: Limits) -> Result<Self, String> {
        let missing: Vec<_> =
            EXPORTS.iter().filter(|e| component.get_export_index(None, e).is_none()).collect();
        let exports = EXPORTS.map(|export| component.get_export_index(None, export));
        let [Some(describe), Some(configure), Some(process_batch)] = exports else {
            let missing: Vec<_> = missing.into_iter().map(|e| format!("`{e}`")).collect();
            return Err(format!("it does not export {}", missing.join(", ")));
        };
        let instance = linker(engine)
            .and_then(|linker| linker.instantiate_pre(component))
            .map_err(|e| format!("its imports don't fit: {}", e.root_cause()))?;
        Ok(Program {
            engine: engine.clone(),
            instance,
            exports: [describe, configure, process_batch],
            limits,
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts an instance that is to get so many bytes of events.
    pub(super) fn start(&self, input_bytes: usize) -> Result<Running<'_>, Fault> {
        let mut store = sandbox::store(&self.engine, &self.limits, input_bytes);
        match self.instance.instantiate(&mut store) {
            Ok(instance) => Ok(Running { program: self, store, instance }),
            Err(e) => Err(sandbox::fault(&store, &e, FailureCode::Sandbox)),
        }
    }
}

impl Running<'_> {
    /// The export of that number, where it has parameters and results of these types.
    fn export<P, R>(&mut self, export: usize) -> Result<TypedFunc<P, (R,)>, Fault>
    where
        P: ComponentNamedList + Lower,
        (R,): ComponentNamedList + Lift,
    {
        let index = &self.program.exports[export];
        self.instance.get_typed_func(&mut self.store, index).map_err(|_| {
            let detail = format!("its export `{}` has other parameters or results", EXPORTS[export]);
            Fault::new(FailureCode::InvalidOutput, detail)
        })
    }

    /// Calls the export of that number with parameters and results of these types.
    fn call<P, R>(&mut self, export: usize, params: P) -> Result<R, Fault>
    where
        P: ComponentNamedList + Lower,
        (R,): ComponentNamedList + Lift,
    {
        let func = self.export::<P, R>(export)?;
        // Neither a trap nor a limit: what came back can't be read as the contract's types.
        let called = func.call(&mut self.store, params);
        called.map(|(r,)| r).map_err(|e| sandbox::fault(&self.store, &e, FailureCode::InvalidOutput))
    }

    /// Keeps more of what the plugin says, for its author.
    pub(super) fn listen(&mut self) {
        self.store.data_mut().listen();
    }

    pub(super) fn describe(&mut self) -> Result<Manifest, Fault> {
        self.call(0, ())
    }

    /// Checks, without an event at hand, that batches can be handed to it.
    pub(super) fn takes_batches(&mut self) -> Result<(), Fault> {
        self.export::<(&[u8],), Result<BatchResult, EventError>>(2).map(|_| ())
    }

    /// The inner `Err` is the plugin's own words.
    pub(super) fn configure(&mut self, config: &str) -> Result<Result<(), String>, Fault> {
        self.call(1, (config,))
    }

    /// What it said so far, as it said it: it may quote events.
    pub(super) fn take_said(&mut self) -> Vec<Line> {
        self.store.data_mut().take_said()
    }

    /// `events` are concatenated BSON documents. The inner `Err` may quote an event.
    pub(super) fn process_batch(&mut self, events: &[u8]) -> Result<Result<BatchResult, EventError>, Fault> {
        self.call(2, (events,))
    }
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.instance(HOST)?.func_wrap("log", log)?;
    Ok(linker)
}

/// Hears a plugin's log line. Whether and how it is shown is decided when the run is over.
fn log(mut store: StoreContextMut<'_, State>, (level, message): (Level, WasmStr)) -> wasmtime::Result<()> {
    if store.data().listens(level) {
        let said = cut(&message.to_str(&store)?, MAX_SAID).to_owned();
        store.data_mut().hear(level, said);
    }
    Ok(())
}
