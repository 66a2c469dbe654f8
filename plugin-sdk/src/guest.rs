//! The plugin's side of the contract in `wit/plugin.wit`: the generated bindings and what the exported functions do.

/// The generated bindings. Only this module contains unsafe code, and only inside the sandbox.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, missing_docs, unreachable_pub, rust_2018_idioms, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "plugin_sdk::guest::bindings",
    });
}

#[cfg(target_arch = "wasm32")]
mod exported {
    use std::cell::RefCell;

    use super::bindings::{BatchResult, EventError, Manifest};
    use crate::batch;
    use crate::log::{Level, write};
    use crate::plugin::Plugin;

    /// Holds the configured plugin. One per instance: the sandbox has one thread.
    #[derive(Debug)]
    pub struct Slot<P>(RefCell<Option<P>>);

    impl<P> Default for Slot<P> {
        fn default() -> Self {
            Slot(RefCell::new(None))
        }
    }

    impl<P: Plugin> Slot<P> {
        /// What the plugin is and may do.
        pub fn describe(version: &str) -> Manifest {
            hook();
            Manifest {
                name: P::NAME.into(),
                version: version.into(),
                may_drop: P::MAY_DROP,
                may_modify: P::MAY_MODIFY,
                config_schema: P::CONFIG_SCHEMA.into(),
            }
        }

        /// Makes the plugin from its configuration.
        pub fn configure(&self, config: &str) -> Result<(), String> {
            hook();
            let plugin = P::configure(config)?;
            *self.0.borrow_mut() = Some(plugin);
            Ok(())
        }

        /// Processes a batch.
        pub fn process_batch(&self, events: &[u8]) -> Result<BatchResult, EventError> {
            let plugin = self.0.borrow();
            let Some(plugin) = plugin.as_ref() else {
                return Err(EventError { index: 0, message: "the plugin was not configured".into() });
            };
            match batch::process(plugin, events) {
                Ok(batch) => Ok(BatchResult { verdicts: batch.verdicts, docs: batch.docs }),
                Err(e) => Err(EventError { index: e.index, message: e.message }),
            }
        }
    }

    /// Without this a panic is only a trap: its message would be lost.
    fn hook() {
        std::panic::set_hook(Box::new(|info| match info.location() {
            Some(at) => {
                let message = info.payload_as_str().unwrap_or("");
                let (file, line) = (at.file(), at.line());
                write(Level::Error, format_args!("plugin panicked at {file}:{line}: {message}"));
            }
            None => write(Level::Error, format_args!("plugin panicked")),
        }));
    }
}

#[cfg(target_arch = "wasm32")]
pub use exported::Slot;

/// Makes a type that implements [`crate::plugin::Plugin`] the plugin that this crate builds to. Stands at the top of the crate.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::guest::bindings::{BatchResult, EventError, Guest, Manifest};

            thread_local! {
                static SLOT: $crate::guest::Slot<$plugin> = Default::default();
            }

            struct Exported;

            impl Guest for Exported {
                fn describe() -> Manifest {
                    $crate::guest::Slot::<$plugin>::describe(env!("CARGO_PKG_VERSION"))
                }
                fn configure(config: String) -> Result<(), String> {
                    SLOT.with(|slot| slot.configure(&config))
                }
                fn process_batch(events: Vec<u8>) -> Result<BatchResult, EventError> {
                    SLOT.with(|slot| slot.process_batch(&events))
                }
            }

    $crate::guest::bindings::export_component!(Exported with_types_in $crate::guest::bindings);
        };

        /// Measures the plugin natively, for `archiver plugin bench`; also the proof that the type fits.
        #[cfg(not(target_arch = "wasm32"))]
        #[doc(hidden)]
        #[allow(unreachable_pub)]
        pub fn __bench(config: &str, events: &[u8], rounds: usize) -> Result<Vec<f64>, String> {
            $crate::testing::bench::<$plugin>(config, events, rounds)
        }
    };
}
