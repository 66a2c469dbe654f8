//! Makes guests from WebAssembly text, as core modules like those that `cargo build` leaves behind.

use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::quick;
use crate::config::{Grants, PluginConfig, Secret};
use crate::error::Result;
use crate::plugin::PluginChain;
use crate::plugin::limits::Limits;
use crate::record::hex;

pub(super) const WIT: &str = include_str!("../../../../plugin-sdk/wit/plugin.wit");

/// A plugin that returns every event as its own replacement, but for what a test makes it do instead.
pub(super) struct Guest {
    /// Pages of memory at the start.
    pub(super) pages: u32,
    /// Further fields of the module.
    pub(super) fields: String,
    /// What `describe` and `configure` do first.
    pub(super) describe: String,
    pub(super) configure: String,
    /// What `process-batch` does at the end, with `$out`, the result's address, on its way out.
    pub(super) result: String,
    /// What `cabi_realloc` does first.
    pub(super) alloc: String,
    /// Pushes the verdict on the event at `$at` with `$len` bytes.
    pub(super) judge: String,
    pub(super) may_drop: bool,
    pub(super) may_modify: bool,
}

impl Default for Guest {
    fn default() -> Self {
        Guest {
            pages: 2,
            fields: String::new(),
            describe: String::new(),
            configure: String::new(),
            result: String::new(),
            alloc: String::new(),
            judge: "(i32.const 1)".into(),
            may_drop: true,
            may_modify: true,
        }
    }
}

impl Guest {
    /// Does this first on every event whose `op` begins with `x`.
    pub(super) fn on_x(instructions: &str) -> Guest {
        let judge = format!(
            "(if (i32.eq (i32.load8_u offset=12 (local.get $at)) (i32.const 120)) (then {instructions})) (i32.const 1)"
        );
        Guest { judge, ..Guest::default() }
    }

    /// The module's text.
    pub(super) fn wat(&self) -> String {
        let Guest { pages, fields, describe, configure, result, alloc, judge, .. } = self;
        let (may_drop, may_modify) = (i32::from(self.may_drop), i32::from(self.may_modify));
        format!(
            r#"(module
  (import "archiver:plugin/host@1.0.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") {pages})
  (global $top (mut i32) (i32.const 65536))
  (data (i32.const 1024) "guest0.1.0{{}}")
  {fields}
  (func $alloc (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
    {alloc}
    (local.set $at (global.get $top))
    (global.set $top (i32.and (i32.add (i32.add (global.get $top) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (block $enough (loop $more
      (br_if $enough (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
      unreachable))
    (local.get $at))
  (func (export "describe") (result i32)
    {describe}
    (i32.store (i32.const 256) (i32.const 1024)) (i32.store (i32.const 260) (i32.const 5))
    (i32.store (i32.const 264) (i32.const 1029)) (i32.store (i32.const 268) (i32.const 5))
    (i32.store8 (i32.const 272) (i32.const {may_drop})) (i32.store8 (i32.const 273) (i32.const {may_modify}))
    (i32.store (i32.const 276) (i32.const 1034)) (i32.store (i32.const 280) (i32.const 2))
    (i32.const 256))
  (func (export "configure") (param $at i32) (param $len i32) (result i32)
    {configure}
    (i32.const 512))
  (func $judge (param $at i32) (param $len i32) (result i32) {judge})
  (func (export "process-batch") (param $at i32) (param $len i32) (result i32)
    (local $end i32) (local $verdicts i32) (local $count i32) (local $docs i32) (local $size i32) (local $verdict i32)
    (local $out i32)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (local.set $verdicts (call $alloc (i32.const 0) (i32.const 0) (i32.const 1) (local.get $len)))
    (local.set $docs (call $alloc (i32.const 0) (i32.const 0) (i32.const 1) (local.get $len)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $len (i32.load (local.get $at)))
      (local.set $verdict (call $judge (local.get $at) (local.get $len)))
      (i32.store8 (i32.add (local.get $verdicts) (local.get $count)) (local.get $verdict))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (if (i32.eq (local.get $verdict) (i32.const 1)) (then
        (memory.copy (i32.add (local.get $docs) (local.get $size)) (local.get $at) (local.get $len))
        (local.set $size (i32.add (local.get $size) (local.get $len)))))
      (local.set $at (i32.add (local.get $at) (local.get $len)))
      (br $next)))
    (local.set $out (i32.const 768))
    (i32.store offset=4 (local.get $out) (local.get $verdicts)) (i32.store offset=8 (local.get $out) (local.get $count))
    (i32.store offset=12 (local.get $out) (local.get $docs)) (i32.store offset=16 (local.get $out) (local.get $size))
    {result}
    (local.get $out)))"#
        )
    }

    /// The core module.
    pub(super) fn module(&self) -> Vec<u8> {
        self.module_for("1.0.0")
    }

    /// The core module, against another version of the contract.
    pub(super) fn module_for(&self, version: &str) -> Vec<u8> {
        core_module(
            &self.wat().replace("@1.0.0", &format!("@{version}")),
            &WIT.replace("@1.0.0", &format!("@{version}")),
        )
    }

    /// The component that the host makes of the module.
    pub(super) fn component(&self) -> Vec<u8> {
        ComponentEncoder::default().validate(true).module(&self.module()).unwrap().encode().unwrap()
    }

    /// A chain of this guest alone.
    pub(super) fn chain(&self) -> PluginChain {
        self.load().unwrap()
    }

    /// Tries to load it.
    pub(super) fn load(&self) -> Result<PluginChain> {
        File::new(&self.module()).load(quick())
    }
}

/// A core module from text, with the contract's types in it, as `export!` leaves them there.
pub(super) fn core_module(wat: &str, wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("plugin.wit", wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    // The text format is wasmtime's business in tests: this is the same parser.
    let mut module = wat_bytes(wat);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// Text to bytes.
pub(super) fn wat_bytes(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A plugin file in a folder of its own, and its entry in the configuration.
pub(super) struct File {
    _folder: TempDir,
    pub(super) config: PluginConfig,
}

impl File {
    pub(super) fn new(bytes: &[u8]) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("guest.wasm");
        std::fs::write(&path, bytes).unwrap();
        let config = PluginConfig {
            name: "guest".into(),
            path,
            sha256: Some(hex(&Sha256::digest(bytes).into())),
            config_json: Secret::new("{}"),
            secrets: Vec::new(),
            allow: Grants::ALL,
            tests: Vec::new(),
        };
        File { _folder: folder, config }
    }

    pub(super) fn load(&self, limits: Limits) -> Result<PluginChain> {
        PluginChain::load_within(&[&self.config], false, limits)
    }
}
