//! Which adapters there are, in the order in which they are offered, and why there may be none.

use std::sync::OnceLock;

use hal::DeviceInfo;
use wgpu::{Adapter, Backend, Backends, DeviceType, Features, Instance, InstanceDescriptor};

/// The graphics interfaces this build can use.
fn instance() -> Instance {
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::PRIMARY | Backends::GL;
    Instance::new(descriptor)
}

/// Discrete GPUs first, software last.
fn order(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// All adapters. Drivers are asked once per process: some are slow, some print each time what they miss.
pub(crate) fn adapters() -> &'static [Adapter] {
    static ADAPTERS: OnceLock<Vec<Adapter>> = OnceLock::new();
    ADAPTERS.get_or_init(found)
}

/// All adapters; those of GL only where nothing else reaches the GPU.
fn found() -> Vec<Adapter> {
    let mut adapters = pollster::block_on(instance().enumerate_adapters(Backends::all()));
    let is_gl = |adapter: &Adapter| adapter.get_info().backend == Backend::Gl;
    if !adapters.iter().all(is_gl) {
        adapters.retain(|adapter| !is_gl(adapter));
    }
    // Stable: adapters of a kind stay in the driver's order.
    adapters.sort_by_key(|adapter| order(adapter.get_info().device_type));
    adapters
}

/// Features this backend asks for where the adapter has them.
pub(crate) fn features(adapter: &Adapter) -> Features {
    adapter.features() & Features::TIMESTAMP_QUERY
}

/// Name, interface and driver of an adapter.
pub(crate) fn name(adapter: &Adapter) -> String {
    let info = adapter.get_info();
    let driver = format!("{} {}", info.driver, info.driver_info);
    format!("{}, {:?}, {}", info.name, info.backend, driver.trim())
}

/// What an adapter is, as a device that uses these features.
pub(crate) fn info(adapter: &Adapter, ordinal: u32, used: Features) -> DeviceInfo {
    let name = format!("{}, {}", name(adapter), names(used));
    // wgpu does not say how much memory an adapter has.
    DeviceInfo { backend: "wgpu", name, ordinal, memory_bytes: 0 }
}

/// What features are called where they are listed.
fn names(used: Features) -> &'static str {
    match used.contains(Features::TIMESTAMP_QUERY) {
        true => "with timestamps",
        false => "no optional features",
    }
}

/// Findings for `hadal doctor`.
pub(crate) fn findings() -> Vec<String> {
    let adapters = adapters();
    if adapters.is_empty() {
        let mut lines = vec!["no Vulkan, Metal, DX12 or GL adapter was found".to_owned()];
        if cfg!(target_os = "linux") {
            lines.push(
                "a GPU needs its vendor's Vulkan driver and the loader libvulkan.so.1 (Debian: \
                 libvulkan1, and mesa-vulkan-drivers for AMD, Intel and software rendering)"
                    .into(),
            );
        }
        return lines;
    }
    let mut lines = Vec::new();
    for (ordinal, adapter) in adapters.iter().enumerate() {
        let limits = adapter.limits();
        let mebibytes = limits.max_storage_buffer_binding_size >> 20;
        lines.push(format!(
            "wgpu:{ordinal} {}: binds {mebibytes} MiB, {}",
            name(adapter),
            names(features(adapter))
        ));
        if adapter.get_info().device_type == DeviceType::Cpu {
            lines.push(format!(
                "wgpu:{ordinal} is software: the cpu device runs the same model many times faster"
            ));
        }
    }
    lines
}
