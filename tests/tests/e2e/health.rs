//! Signs for machines that the service is well: gRPC health and reflection, the admin port.

use std::time::Duration;

use prost::Message as _;
use sharklock_tests::server::Server;
use sharklock_tests::wire::channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const SERVICES: [&str; 2] = ["sharklock.v1.AdminService", "sharklock.v1.LockService"];

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_knows_the_services() {
    let server = Server::start().await;
    let mut health = HealthClient::new(channel(&server).await);
    for service in ["", "sharklock.v1.LockService", "readiness"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = health.check(request).await.unwrap_or_else(|e| panic!("{service}: {e}"));
        assert_eq!(response.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "sharklock.v1.NoService".to_owned() };
    let status = health.check(unknown).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = tokio::time::timeout(Duration::from_secs(5), watch.message()).await;
    let first = first.expect("a watch answers at once").unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
}

/// Reflection in both its versions, word for word the same.
macro_rules! reflection {
    ($test:ident, $version:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

            let server = Server::start().await;
            let mut client = ServerReflectionClient::new(channel(&server).await);
            let ask =
                |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
            let questions = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("sharklock.v1.LockService".to_owned())),
            ];
            let stream = tokio_stream::iter(questions);
            let answers = client.server_reflection_info(stream).await.expect("it is served");
            let mut answers = answers.into_inner();
            let mut next = async || answers.message().await.unwrap().unwrap().message_response;
            let Some(MessageResponse::ListServicesResponse(list)) = next().await else {
                panic!("the services are listed")
            };
            let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
            for service in SERVICES {
                assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
            }
            assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
            let Some(MessageResponse::FileDescriptorResponse(files)) = next().await else {
                panic!("the file is shown")
            };
            let file = files.file_descriptor_proto[0].as_slice();
            let file = prost_types::FileDescriptorProto::decode(file).unwrap();
            let methods: Vec<&str> = file.service[0].method.iter().map(|m| m.name()).collect();
            assert!(methods.contains(&"Acquire") && methods.contains(&"Session"), "{methods:?}");
        }
    };
}
reflection!(reflection_v1_shows_the_public_api, v1);
reflection!(reflection_v1alpha_shows_the_public_api, v1alpha);

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_shows_life_readiness_and_metrics() {
    let server = Server::start().await;
    let guard = server.client().lock("m").acquire().await.unwrap();
    guard.release().await.unwrap();
    for path in ["/livez", "/readyz"] {
        let (status, body) = server.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    let (status, _) = server.get("/no-such-page").await;
    assert_eq!(status, 404);
    let (status, metrics) = server.get("/metrics").await;
    assert_eq!(status, 200);
    let family = |name: &str| {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "no {name} in\n{metrics}");
    };
    family("sharklock_build_info");
    family("process_resident_memory_bytes");
    let ours = metrics.lines().filter(|line| line.starts_with("# TYPE sharklock_"));
    for line in ours {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(kind == "counter", name.ends_with("_total"), "Prometheus names: {line}");
    }
    // A lock's name is never a label: there are as many as there are users.
    assert!(!metrics.contains("\"m\""), "{metrics}");
    check_with_promtool(&metrics);
}

/// `promtool check metrics`, where it is installed.
fn check_with_promtool(metrics: &str) {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        println!("promtool is not installed: its check is skipped");
        return;
    };
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_asked_for_its_health_by_its_own_binary() {
    let mut server = Server::start().await;
    let asked = |server: &Server| {
        // As in a container: the variable by which the server itself listens.
        let mut health = server.cli(&["health"]);
        health.env("SHARKLOCK_LISTEN__ADMIN", server.admin());
        let output = health.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    assert_eq!(asked(&server), (Some(0), "ready\n".to_owned()));
    let json = server.cli(&["health", "--admin", server.admin(), "-o", "json"]).output();
    let json: serde_json::Value =
        serde_json::from_slice(&json.expect("it runs").stdout).expect("it is JSON");
    assert_eq!(json["schema"], "sharklock.v1.Health");
    server.kill();
    let (code, said) = asked(&server);
    assert_eq!(code, Some(69));
    assert!(said.contains(&format!("error: nothing answers at {}", server.admin())), "{said}");
}
