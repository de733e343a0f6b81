//! A worker process that goes away while nothing of this process is on it: the next use of its
//! device is an error, not the end.
#![cfg(feature = "rpc")]

use std::env;
use std::mem::ManuallyDrop;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use llama_moe::{
    Budget, ContextParams, Error, Model, ModelParams, MoeCacheStats, Planner, Preview, RpcServer,
};

mod support;
use support::layouts::Layout;
use support::{backend, file};

#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

#[test]
fn a_device_that_is_gone_is_told() {
    let endpoint = format!("127.0.0.1:{}", support::worker::free_port());
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["--exact", "worker_process", "--nocapture"])
        .env(support::worker::ENDPOINT, &endpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let backend = backend();
    let start = Instant::now();
    let device = loop {
        let server = RpcServer::from(endpoint.clone()).with_timeout(Duration::from_millis(500));
        match backend.add_rpc_server(server) {
            Ok(devices) => break devices[0],
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
    };
    let (_dir, path) = file(Layout::Qwen3Moe);
    let params = ModelParams::default().with_devices([device]);
    drop(Model::load(&backend, &path, params.clone()).expect("a worker that is there"));
    let cached = params.clone().with_cpu_moe_all().for_moe_cache();
    let preview = Preview::new(&backend, &path, &cached).expect("a preview");
    // Never dropped: its tensors on the worker could not be freed.
    let model = ManuallyDrop::new(Model::load(&backend, &path, cached).expect("a model"));
    assert!(device.memory().total > 0);
    let small = ContextParams::default()
        .with_n_ctx(256)
        .with_moe_cache_size(1 << 20);
    let mut cached = ManuallyDrop::new(model.context(small.clone()).expect("a context"));
    #[cfg(feature = "engine")]
    let engine = ManuallyDrop::new({
        use llama_moe::engine::{Engine, EngineParams};
        Engine::new(&model, EngineParams::default().with_context(small)).expect("an engine")
    });

    #[cfg(feature = "measure")]
    let watch = llama_moe::measure::DeviceWatch::start(&[device], Duration::from_secs(1)).unwrap();

    process.kill().unwrap();
    process.wait().unwrap();
    let told = |result: Result<(), Error>| match result {
        Err(Error::DeviceGone { device, .. }) => assert!(device.starts_with("RPC"), "{device}"),
        other => panic!("{other:?}"),
    };
    told(Model::load(&backend, &path, params.clone()).map(drop));
    told(Preview::new(&backend, &path, &params).map(drop));
    told(preview.moe_cache(1 << 20).map(drop));
    told(model.moe_cache(1 << 20).map(drop));
    let context = ContextParams::default().with_moe_cache_size(1 << 20);
    told(model.context(context).map(drop));
    // The statistics of a cache are in this process.
    assert_eq!(
        cached.moe_cache_stats().unwrap(),
        Some(MoeCacheStats::default())
    );
    #[cfg(feature = "engine")]
    {
        assert_eq!(engine.stats().moe_cache, Some(MoeCacheStats::default()));
        assert!(engine.moe_cache().is_some());
    }
    let planner = Planner::new(&backend, &path).unwrap();
    let planner = planner.with_model_params(params.clone());
    told(planner.fit(&Budget::per_device(1 << 30)).map(drop));
    told(planner.fit(&Budget::free(0)).map(drop));
    told(planner.fit(&Budget::devices([(device, 1 << 30)])).map(drop));
    #[cfg(feature = "measure")]
    told(llama_moe::measure::transfer_rates(&[device]).map(drop));
    assert_eq!(device.memory().total, 0);
    // Nor does it look as if all its memory had been taken.
    #[cfg(feature = "measure")]
    assert_eq!(watch.finish()[0].taken(), None);
}
