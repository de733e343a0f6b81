//! The process's backend: devices by name, and workers that are not there.

use llama_moe::{Backend, DeviceType, Error, NumaStrategy};

#[test]
fn there_is_a_cpu() {
    let backend = Backend::init().unwrap();
    let cpu = backend.cpu().unwrap();
    assert_eq!(cpu.name(), "CPU");
    assert_eq!(cpu.device_type(), DeviceType::Cpu);
    assert_eq!(cpu.backend_name(), "CPU");
    assert_eq!(cpu.buffer_type_name().as_deref(), Some("CPU"));
    let memory = cpu.memory();
    assert!(memory.total >= memory.free && memory.free > 0);
    assert_eq!(backend.device("cpu").unwrap(), cpu);
    assert!(Backend::init().unwrap().devices().contains(&cpu));
}

#[test]
fn an_unknown_device_is_told_with_those_there_are() {
    let error = Backend::init().unwrap().device("CUDA9").unwrap_err();
    assert!(matches!(&error, Error::UnknownDevice { name, available }
        if name == "CUDA9" && available.iter().any(|name| name == "CPU")));
    assert!(error.to_string().contains("CPU"), "{error}");
}

#[test]
fn modules_are_in_a_folder() {
    for path in ["no/such/folder", "Cargo.toml"] {
        let error = Backend::init_with_modules(path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }
}

#[test]
fn the_first_numa_strategy_stays() {
    let backend = Backend::init().unwrap();
    backend.numa_init(NumaStrategy::Distribute).unwrap();
    backend.numa_init(NumaStrategy::Distribute).unwrap();
    let error = backend.numa_init(NumaStrategy::Isolate).unwrap_err();
    assert!(error.to_string().contains("Distribute"), "{error}");
}

#[cfg(feature = "rpc")]
#[test]
fn a_worker_that_is_not_there_is_an_error() {
    use std::net::TcpListener;
    use std::time::Duration;

    use llama_moe::{FailureKind, RpcServer, RpcWorker};

    let backend = Backend::init().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let refused = {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap().to_string()
    };
    for endpoint in [
        refused.as_str(),
        &silent,
        "no-port",
        "",
        "127.0.0.1:99999",
        "a\0b:1",
    ] {
        let server = RpcServer::from(endpoint).with_timeout(Duration::from_millis(200));
        let error = backend.add_rpc_server(server).expect_err(endpoint);
        assert!(
            matches!(error, Error::Llama { .. } | Error::Nul { .. }),
            "{endpoint}: {error:?}"
        );
    }
    for timeout in [Duration::ZERO, Duration::MAX] {
        let server = RpcServer::from(silent.as_str()).with_timeout(timeout);
        assert!(matches!(
            backend.add_rpc_server(server),
            Err(Error::Parameter { .. })
        ));
    }
    // To lend devices settles the NUMA strategy, which another test of this process chooses.
    backend
        .numa_init(llama_moe::NumaStrategy::Distribute)
        .unwrap();
    // The address is taken.
    let error = backend.serve_rpc(RpcWorker::new(silent)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Llama {
                kind: FailureKind::Failed,
                ..
            }
        ),
        "{error:?}"
    );
}
