//! deploy/kubernetes: every document is one of its kind, field by field, what they say of each other is
//! true, and the program takes the arguments that they give it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PodSpec, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize as _;
use serde_json::Value;
use sharklock_tests::process::command;

fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    root.join("deploy/kubernetes")
}

fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(file)).expect("it is there");
    let documents = serde_norway::Deserializer::from_str(&text);
    let read = |it| Value::deserialize(it).unwrap_or_else(|why| panic!("{file}: {why}"));
    documents.map(read).collect()
}

/// Everything in `said` is in `understood` as well: a field that a type does not have is lost.
fn assert_understood(what: &str, said: &Value, understood: &Value) {
    match (said, understood) {
        (Value::Object(said), Value::Object(understood)) => {
            for (key, value) in said {
                let found = understood.get(key);
                let found = found.unwrap_or_else(|| panic!("{what}.{key} is no field"));
                assert_understood(&format!("{what}.{key}"), value, found);
            }
        }
        (Value::Array(said), Value::Array(understood)) => {
            assert_eq!(said.len(), understood.len(), "{what}");
            for (at, (one, other)) in said.iter().zip(understood).enumerate() {
                assert_understood(&format!("{what}[{at}]"), one, other);
            }
        }
        _ => assert_eq!(said, understood, "{what}"),
    }
}

/// The document as one of this type.
fn typed<T: serde::de::DeserializeOwned + serde::Serialize>(document: &Value) -> T {
    let what = format!("{} {}", document["kind"], document["metadata"]["name"]);
    let typed: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|why| panic!("{what}: {why}"));
    let back = serde_json::to_value(&typed).expect("it is JSON");
    assert_understood(&what, document, &back);
    typed
}

#[derive(Default)]
struct All {
    services: BTreeMap<String, Service>,
    budgets: Vec<PodDisruptionBudget>,
    sets: BTreeMap<String, StatefulSet>,
}

fn all() -> All {
    let mut all = All::default();
    let [kustomization] = &documents("kustomization.yaml")[..] else { panic!("one document") };
    let listed = kustomization["resources"].as_array().expect("it lists files");
    let listed: BTreeSet<_> = listed.iter().map(|it| it.as_str().expect("a name")).collect();
    let there = std::fs::read_dir(folder()).expect("it is a folder");
    let there = there.map(|it| it.expect("it is read").file_name().into_string().expect("UTF-8"));
    let there: BTreeSet<_> = there.filter(|name| name != "kustomization.yaml").collect();
    assert_eq!(listed, there.iter().map(String::as_str).collect(), "it lists what is there");
    for document in listed.into_iter().flat_map(documents) {
        let name = document["metadata"]["name"].as_str().expect("each has a name").to_owned();
        match document["kind"].as_str() {
            Some("Namespace") => drop(typed::<Namespace>(&document)),
            Some("Service") => drop(all.services.insert(name, typed(&document))),
            Some("PodDisruptionBudget") => all.budgets.push(typed(&document)),
            Some("StatefulSet") => drop(all.sets.insert(name, typed(&document))),
            other => panic!("{other:?} of {name}: no test knows this kind"),
        }
    }
    all
}

fn pod(set: &StatefulSet) -> &PodSpec {
    let template = &set.spec.as_ref().expect("it has a spec").template;
    template.spec.as_ref().expect("it has pods")
}

fn labels(set: &StatefulSet) -> &BTreeMap<String, String> {
    let template = &set.spec.as_ref().expect("it has a spec").template;
    template.metadata.as_ref().and_then(|it| it.labels.as_ref()).expect("pods have labels")
}

#[test]
fn every_document_is_understood_and_fits_the_others() {
    let All { services, budgets, sets } = all();
    assert_eq!(sets.len(), 3, "masters, data servers, gateways");
    for (name, set) in &sets {
        let spec = set.spec.as_ref().expect("it has a spec");
        assert_eq!(spec.selector.match_labels.as_ref(), Some(labels(set)), "{name}");
        let service = spec.service_name.clone().into_iter().collect::<String>();
        let service = services.get(&service).unwrap_or_else(|| panic!("{name}: {service:?}"));
        let service = service.spec.as_ref().expect("it has a spec");
        assert_eq!(
            service.cluster_ip.as_deref(),
            Some("None"),
            "{name}: names are of a headless one"
        );
        assert_eq!(service.selector.as_ref(), Some(labels(set)), "{name}");
        let mine: Vec<_> = budgets
            .iter()
            .filter_map(|it| it.spec.as_ref())
            .filter(|it| {
                it.selector.as_ref().and_then(|it| it.match_labels.as_ref()) == Some(labels(set))
            })
            .collect();
        assert_eq!(mine.len(), 1, "{name}: one budget");
        assert_eq!(mine[0].max_unavailable, Some(IntOrString::Int(1)), "{name}");

        let [container] = &pod(set).containers[..] else { panic!("{name}: one container") };
        let ports = container.ports.as_deref().expect("it has ports");
        let port = |name: &str| ports.iter().find(|it| it.name.as_deref() == Some(name));
        for target in service.ports.as_deref().expect("it has ports") {
            let Some(IntOrString::String(target_port)) = &target.target_port else {
                panic!("{name}: ports go by their names")
            };
            let found = port(target_port).unwrap_or_else(|| panic!("{name}: {target_port}"));
            assert_eq!(found.container_port, target.port, "{name}: {target_port}");
        }
        for probe in
            [&container.liveness_probe, &container.readiness_probe, &container.startup_probe]
        {
            let get = probe.as_ref().and_then(|it| it.http_get.as_ref()).expect("each is a GET");
            let IntOrString::String(at) = &get.port else { panic!("{name}: ports go by names") };
            assert!(port(at).is_some(), "{name}: {at}");
            let path = get.path.as_deref().expect("it has a path");
            assert!(["/livez", "/readyz"].contains(&path), "{name}: {path}");
        }
        let requests = container.resources.as_ref().and_then(|it| it.requests.as_ref());
        let requests = requests.unwrap_or_else(|| panic!("{name}: it asks for no resources"));
        assert!(["cpu", "memory"].iter().all(|it| requests.contains_key(*it)), "{name}");
        let affinity = pod(set).affinity.as_ref().and_then(|it| it.pod_anti_affinity.as_ref());
        assert!(affinity.is_some(), "{name}: two of them on one machine are lost together");
        let grace = pod(set).termination_grace_period_seconds;
        assert!(grace.is_some_and(|it| it >= 30), "{name}: a stop takes up to 25 s");
    }
}

/// The arguments as the first pod gets them.
fn arguments(set: &StatefulSet) -> Vec<String> {
    let name = set.metadata.name.clone().expect("it has a name") + "-0";
    let args = pod(set).containers[0].args.clone().expect("it has arguments");
    args.into_iter().map(|arg| arg.replace("$(POD_NAME)", &name)).collect()
}

/// The value of an argument.
fn value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    arguments.iter().find_map(|it| it.strip_prefix(flag)?.strip_prefix('='))
}

fn dockerfile() -> String {
    let file = folder().join("../docker/Dockerfile");
    std::fs::read_to_string(file).expect("it is there")
}

/// What the image sets in the environment of the program.
fn environment_of_the_image() -> Vec<(String, String)> {
    let file = dockerfile();
    let (_, rest) = file.split_once("ENV SHARKLOCK_").expect("the image sets something");
    let set = format!("SHARKLOCK_{rest}");
    let lines = set.split_inclusive('\n').take_while(|line| line.contains("SHARKLOCK_"));
    let pair = |line: &str| {
        let (key, value) = line.trim().trim_end_matches([' ', '\\']).split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    lines.filter_map(pair).collect()
}

#[test]
fn the_program_takes_the_arguments_of_every_pod() {
    let environment = environment_of_the_image();
    assert!(environment.iter().any(|(key, _)| key.ends_with("DATA_ON_VOLUME")), "{environment:?}");
    for (name, set) in &all().sets {
        let arguments = arguments(set);
        assert!(!arguments.iter().any(|arg| arg.contains("$(")), "{name}: {arguments:?}");
        let mut command = command(&arguments);
        command.arg("--print-config").envs(environment.iter().cloned());
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn each_pod_has_the_volume_the_ports_and_the_user_that_its_program_wants() {
    let user = dockerfile();
    let user = user.lines().find_map(|line| line.strip_prefix("USER ")?.split_once(':'));
    let ids = user.map(|(user, group)| (user.parse().ok(), group.parse().ok()));
    for (name, set) in &all().sets {
        let (arguments, spec) = (arguments(set), set.spec.as_ref().expect("it has a spec"));
        let container = &pod(set).containers[0];

        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let mounted = mounts.iter().map(|it| (it.name.clone(), it.mount_path.as_str()));
        let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
        let claimed = claims.iter().map(|it| it.metadata.name.clone().expect("it has a name"));
        let claimed = claimed.zip(value(&arguments, "--data-dir"));
        assert!(mounted.eq(claimed), "{name}: one volume, where the data is");
        let keeps = value(&arguments, "--roles") != Some("gateway");
        assert_eq!(mounts.len(), usize::from(keeps), "{name}: a volume for whoever keeps anything");

        let ports = container.ports.as_deref().expect("it has ports");
        let port_of = |flag: &str| {
            let address = value(&arguments, flag)?;
            address.rsplit(':').next().and_then(|port| port.parse::<i32>().ok())
        };
        for port in ports {
            let role = port.name.as_deref().expect("ports have names");
            let listens = port_of(&format!("--listen-{role}"));
            assert_eq!(listens, Some(port.container_port), "{name}: {role}");
            if let Some(advertised) = port_of(&format!("--advertise-{role}")) {
                assert_eq!(advertised, port.container_port, "{name}: {role}");
            }
        }
        let listens = arguments.iter().filter(|it| it.starts_with("--listen-"));
        assert_eq!(listens.count(), ports.len(), "{name}: each has its port");

        let security = pod(set).security_context.as_ref().expect("it says who runs it");
        assert_eq!(ids, Some((security.run_as_user, security.run_as_group)), "{name}: the image's");
        assert_eq!(security.fs_group, security.run_as_group, "{name}: its volume is its own");
    }
    // Kubernetes pulls an image of the tag `latest` at each start.
    let tag = &documents("kustomization.yaml")[0]["images"][0]["newTag"];
    assert!(tag.as_str().is_some_and(|tag| tag != "latest"), "{tag}");
}

#[test]
fn masters_are_found_where_the_pods_are() {
    let sets = all().sets;
    let of = |name: &str, flag: &str| {
        let arguments = arguments(&sets[name]);
        let found = arguments.iter().find_map(|it| it.strip_prefix(flag).map(str::to_owned));
        found.unwrap_or_else(|| panic!("{name} has no {flag}"))
    };
    let masters = of("sharklock-master", "--masters=");
    let spec = sets["sharklock-master"].spec.as_ref().expect("it has a spec");
    assert_eq!(masters.split(',').count(), spec.replicas.unwrap_or(1) as usize);
    let first = of("sharklock-master", "--advertise-master=");
    assert_eq!(masters.split(',').next(), Some(first.as_str()));
    for name in ["sharklock-data", "sharklock-gateway"] {
        assert_eq!(of(name, "--masters="), masters, "{name}");
    }
}
