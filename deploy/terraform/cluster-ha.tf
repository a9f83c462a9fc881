# What runs: names, images, ports, environment, mounts, and which certificates and passwords there are. Nothing here but values of variables, so that the test can have
# Terraform work it out without a provider and hold it against compose.yaml. main-ha.tf makes containers of it.
locals {
  etcd_names   = [for n in range(1, var.etcd_count + 1) : "etcd-${n}"]
  member_names = [for n in range(1, var.pg_node_count + 1) : "pg-node-${n}"]
  etcd_hosts   = join(",", [for name in local.etcd_names : "${name}:${var.etcd_port}"])

  etcd = {
    for n, name in local.etcd_names : name => {
      image      = var.etcd_image
      entrypoint = null
      command    = ["/usr/local/bin/etcd"]
      restart    = "unless-stopped"
      grace      = 10
      ports      = []
      volumes    = { "/var/lib/etcd" = "etcd-data-${n + 1}" }
      secrets    = ["ca.crt", "${name}.pem"]
      environment = {
        ETCD_NAME                        = name
        ETCD_DATA_DIR                    = "/var/lib/etcd/data"
        ETCD_LISTEN_CLIENT_URLS          = "https://0.0.0.0:${var.etcd_port}"
        ETCD_ADVERTISE_CLIENT_URLS       = "https://${name}:${var.etcd_port}"
        ETCD_LISTEN_PEER_URLS            = "https://0.0.0.0:${var.etcd_peer_port}"
        ETCD_INITIAL_ADVERTISE_PEER_URLS = "https://${name}:${var.etcd_peer_port}"
        ETCD_INITIAL_CLUSTER             = join(",", [for peer in local.etcd_names : "${peer}=https://${peer}:${var.etcd_peer_port}"])
        ETCD_INITIAL_CLUSTER_STATE       = "new"
        ETCD_INITIAL_CLUSTER_TOKEN       = "pg-ha"
        ETCD_CLIENT_CERT_AUTH            = "true"
        ETCD_TRUSTED_CA_FILE             = "/run/secrets/ca.crt"
        ETCD_CERT_FILE                   = "/run/secrets/${name}.pem"
        ETCD_KEY_FILE                    = "/run/secrets/${name}.pem"
        ETCD_PEER_CLIENT_CERT_AUTH       = "true"
        ETCD_PEER_TRUSTED_CA_FILE        = "/run/secrets/ca.crt"
        ETCD_PEER_CERT_FILE              = "/run/secrets/${name}.pem"
        ETCD_PEER_KEY_FILE               = "/run/secrets/${name}.pem"
        ETCD_AUTO_COMPACTION_MODE        = "periodic"
        ETCD_AUTO_COMPACTION_RETENTION   = "1h"
        ETCD_LOG_LEVEL                   = "warn"
      }
      health = [
        "CMD", "/usr/local/bin/etcdctl", "--endpoints=https://localhost:${var.etcd_port}", "--cacert=/run/secrets/ca.crt",
        "--cert=/run/secrets/${name}.pem", "--key=/run/secrets/${name}.pem", "endpoint", "health",
      ]
    }
  }

  etcd_users = {
    etcd-users = {
      image       = var.postgres_patroni_image
      entrypoint  = null
      command     = ["/usr/local/lib/pg-ha/etcd.py", "users"]
      restart     = "on-failure"
      grace       = 10
      ports       = []
      volumes     = {}
      secrets     = ["ca.crt", "etcd-root.pem", "etcd-root-password", "etcd-patroni-password"]
      environment = { PATRONI_ETCD3_HOSTS = local.etcd_hosts }
      health      = ["NONE"]
    }
  }

  members = {
    for n, name in local.member_names : name => {
      image      = var.postgres_patroni_image
      entrypoint = null
      command    = null
      restart    = "unless-stopped"
      grace      = 90
      ports = [
        { ip = var.member_bind, external = var.postgres_port_base + n, internal = 5432 },
        { ip = var.member_bind, external = var.patroni_api_port_base + n, internal = 8008 },
      ]
      volumes = { "/var/lib/postgresql" = "${name}-data", "/var/lib/pgbackrest" = "pgbackrest-repo" }
      secrets = [
        "ca.crt", "${name}.pem", "postgres-password", "replication-password", "rewind-password", "patroni-api-password",
        "etcd-patroni-password", "dbhub-password",
      ]
      environment = {
        PATRONI_NAME           = name
        PATRONI_ETCD3_HOSTS    = local.etcd_hosts
        PGHA_NETWORK           = var.network_subnet
        POSTGRES_USER          = var.postgres_user
        POSTGRES_DB            = var.postgres_db
        PGHA_SAMPLE_DATA       = var.sample_data ? "on" : "off"
        PGHA_BACKUP_FULL_EVERY = var.backup_full_every
        PGHA_BACKUP_DIFF_EVERY = var.backup_diff_every
      }
      health = null
    }
  }

  proxy = {
    proxy = {
      image       = var.proxy_image
      entrypoint  = null
      command     = ["run", "--config", "/run/secrets/proxy.toml"]
      restart     = "unless-stopped"
      grace       = 40
      ports       = [{ ip = "0.0.0.0", external = var.proxy_port, internal = 6432 }]
      volumes     = {}
      secrets     = ["proxy.toml", "ca.crt", "proxy.pem", "proxy-secret", "pgha.pem", "pgha_lookup.pem", "pgha_monitor.pem"]
      environment = {}
      health      = null
    }
  }

  dbhub = {
    for name in var.dbhub_enabled ? ["dbhub"] : [] : name => {
      image       = var.dbhub_image
      entrypoint  = ["sh", "-c", "PG_URL=$(cat /run/secrets/dbhub-url) exec bytebase --port 8080 --data /var/opt/bytebase"]
      command     = null
      restart     = "unless-stopped"
      grace       = 10
      ports       = [{ ip = var.member_bind, external = var.dbhub_port, internal = 8080 }]
      volumes     = { "/var/opt/bytebase" = "dbhub-data" }
      secrets     = ["dbhub-url"]
      environment = {}
      health      = null
    }
  }

  containers   = merge(local.etcd, local.etcd_users, local.members, local.proxy, local.dbhub)
  volumes      = toset(flatten([for container in values(local.containers) : values(container.volumes)]))
  network_name = "pg-ha-network"

  passwords = toset([
    "postgres-password", "replication-password", "rewind-password", "patroni-api-password", "etcd-root-password",
    "etcd-patroni-password", "dbhub-password", "proxy-secret",
  ])

  # Names in each certificate and what it serves for. etcd takes a common name for its user's, and refuses one where a
  # password logs in, as Patroni's does: members have none.
  certificates = merge(
    { for name in concat(local.etcd_names, local.member_names) : name => { names = [name, "localhost"], uses = ["server_auth", "client_auth"] } },
    { proxy = { names = concat(["proxy", "localhost"], var.proxy_names), uses = ["server_auth"] } },
    { for name in ["etcd-root", "pgha", "pgha_lookup", "pgha_monitor", "prometheus"] : name => { names = [], uses = ["client_auth"] } },
  )
  nameless = concat(local.member_names, ["etcd-root"])
}
