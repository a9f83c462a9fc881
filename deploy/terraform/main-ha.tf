# The cluster on one Docker host: the same as compose.yaml beside this folder. cluster-ha.tf says what runs, secrets-ha.tf
# makes certificates and passwords; ../README.md is the operations page.
terraform {
  required_version = ">= 1.5"

  required_providers {
    docker = {
      source  = "kreuzwerker/docker"
      version = "~> 3.6"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.6"
    }
    tls = {
      source  = "hashicorp/tls"
      version = "~> 4.0"
    }
  }
}

provider "docker" {}

resource "docker_network" "pg_ha" {
  name = local.network_name

  ipam_config {
    subnet = var.network_subnet
  }
}

resource "docker_volume" "data" {
  for_each = local.volumes

  name = each.key

  lifecycle {
    prevent_destroy = true
  }
}

resource "docker_image" "postgres_patroni" {
  name         = var.postgres_patroni_image
  keep_locally = true

  build {
    context    = "${path.module}/../.."
    dockerfile = "Dockerfile.patroni"
    build_args = { BASE = var.postgres_base_image }
  }

  triggers = {
    sources = sha256(join("", [for file in concat(
      ["../../Dockerfile.patroni", "../../src/cluster/roles.sql", "../etcd/etcd.py"],
      [for name in fileset("${path.module}/../patroni", "*") : "../patroni/${name}"],
      [for name in fileset("${path.module}/../pgbackrest", "*") : "../pgbackrest/${name}"],
    ) : filesha256("${path.module}/${file}")]))
  }
}

resource "docker_image" "proxy" {
  name         = var.proxy_image
  keep_locally = true

  build {
    context    = "${path.module}/../.."
    dockerfile = "Dockerfile"
  }
}

resource "docker_image" "etcd" {
  name         = var.etcd_image
  keep_locally = true
}

resource "docker_image" "dbhub" {
  count = var.dbhub_enabled ? 1 : 0

  name         = var.dbhub_image
  keep_locally = true
}

resource "docker_container" "etcd" {
  for_each = local.etcd

  name                  = each.key
  hostname              = each.key
  image                 = docker_image.etcd.image_id
  entrypoint            = each.value.entrypoint
  command               = each.value.command
  restart               = each.value.restart
  env                   = [for name, value in each.value.environment : "${name}=${value}"]
  stop_timeout          = each.value.grace
  destroy_grace_seconds = each.value.grace

  networks_advanced {
    name    = docker_network.pg_ha.name
    aliases = [each.key]
  }

  dynamic "ports" {
    for_each = each.value.ports
    content {
      ip       = ports.value.ip
      external = ports.value.external
      internal = ports.value.internal
    }
  }

  dynamic "volumes" {
    for_each = each.value.volumes
    content {
      container_path = volumes.key
      volume_name    = docker_volume.data[volumes.value].name
    }
  }

  dynamic "upload" {
    for_each = toset(each.value.secrets)
    content {
      file    = "/run/secrets/${upload.value}"
      content = local.secrets[upload.value]
    }
  }

  dynamic "healthcheck" {
    for_each = each.value.health == null ? [] : [each.value.health]
    content {
      test         = healthcheck.value
      interval     = "10s"
      timeout      = "8s"
      retries      = 3
      start_period = "60s"
    }
  }
}

resource "docker_container" "etcd_users" {
  for_each = local.etcd_users

  name                  = each.key
  hostname              = each.key
  image                 = docker_image.postgres_patroni.image_id
  entrypoint            = each.value.entrypoint
  command               = each.value.command
  restart               = each.value.restart
  env                   = [for name, value in each.value.environment : "${name}=${value}"]
  stop_timeout          = each.value.grace
  destroy_grace_seconds = each.value.grace
  must_run              = false

  networks_advanced {
    name    = docker_network.pg_ha.name
    aliases = [each.key]
  }

  dynamic "ports" {
    for_each = each.value.ports
    content {
      ip       = ports.value.ip
      external = ports.value.external
      internal = ports.value.internal
    }
  }

  dynamic "volumes" {
    for_each = each.value.volumes
    content {
      container_path = volumes.key
      volume_name    = docker_volume.data[volumes.value].name
    }
  }

  dynamic "upload" {
    for_each = toset(each.value.secrets)
    content {
      file    = "/run/secrets/${upload.value}"
      content = local.secrets[upload.value]
    }
  }

  dynamic "healthcheck" {
    for_each = each.value.health == null ? [] : [each.value.health]
    content {
      test         = healthcheck.value
      interval     = "10s"
      timeout      = "8s"
      retries      = 3
      start_period = "60s"
    }
  }

  # Anonymous volumes of the image would be left behind.
  tmpfs = { "/var/lib/postgresql" = "", "/var/lib/pgbackrest" = "" }

  depends_on = [docker_container.etcd]
}

resource "docker_container" "member" {
  for_each = local.members

  name                  = each.key
  hostname              = each.key
  image                 = docker_image.postgres_patroni.image_id
  entrypoint            = each.value.entrypoint
  command               = each.value.command
  restart               = each.value.restart
  env                   = [for name, value in each.value.environment : "${name}=${value}"]
  stop_timeout          = each.value.grace
  destroy_grace_seconds = each.value.grace

  networks_advanced {
    name    = docker_network.pg_ha.name
    aliases = [each.key]
  }

  dynamic "ports" {
    for_each = each.value.ports
    content {
      ip       = ports.value.ip
      external = ports.value.external
      internal = ports.value.internal
    }
  }

  dynamic "volumes" {
    for_each = each.value.volumes
    content {
      container_path = volumes.key
      volume_name    = docker_volume.data[volumes.value].name
    }
  }

  dynamic "upload" {
    for_each = toset(each.value.secrets)
    content {
      file    = "/run/secrets/${upload.value}"
      content = local.secrets[upload.value]
    }
  }

  dynamic "healthcheck" {
    for_each = each.value.health == null ? [] : [each.value.health]
    content {
      test         = healthcheck.value
      interval     = "10s"
      timeout      = "8s"
      retries      = 3
      start_period = "60s"
    }
  }

  depends_on = [docker_container.etcd, docker_container.etcd_users]
}

resource "docker_container" "proxy" {
  for_each = local.proxy

  name                  = each.key
  hostname              = each.key
  image                 = docker_image.proxy.image_id
  entrypoint            = each.value.entrypoint
  command               = each.value.command
  restart               = each.value.restart
  env                   = [for name, value in each.value.environment : "${name}=${value}"]
  stop_timeout          = each.value.grace
  destroy_grace_seconds = each.value.grace

  networks_advanced {
    name    = docker_network.pg_ha.name
    aliases = [each.key]
  }

  dynamic "ports" {
    for_each = each.value.ports
    content {
      ip       = ports.value.ip
      external = ports.value.external
      internal = ports.value.internal
    }
  }

  dynamic "volumes" {
    for_each = each.value.volumes
    content {
      container_path = volumes.key
      volume_name    = docker_volume.data[volumes.value].name
    }
  }

  dynamic "upload" {
    for_each = toset(each.value.secrets)
    content {
      file    = "/run/secrets/${upload.value}"
      content = local.secrets[upload.value]
    }
  }

  dynamic "healthcheck" {
    for_each = each.value.health == null ? [] : [each.value.health]
    content {
      test         = healthcheck.value
      interval     = "10s"
      timeout      = "8s"
      retries      = 3
      start_period = "60s"
    }
  }

  depends_on = [docker_container.member]
}

resource "docker_container" "dbhub" {
  for_each = local.dbhub

  name                  = each.key
  hostname              = each.key
  image                 = docker_image.dbhub[0].image_id
  entrypoint            = each.value.entrypoint
  command               = each.value.command
  restart               = each.value.restart
  env                   = [for name, value in each.value.environment : "${name}=${value}"]
  stop_timeout          = each.value.grace
  destroy_grace_seconds = each.value.grace

  networks_advanced {
    name    = docker_network.pg_ha.name
    aliases = [each.key]
  }

  dynamic "ports" {
    for_each = each.value.ports
    content {
      ip       = ports.value.ip
      external = ports.value.external
      internal = ports.value.internal
    }
  }

  dynamic "volumes" {
    for_each = each.value.volumes
    content {
      container_path = volumes.key
      volume_name    = docker_volume.data[volumes.value].name
    }
  }

  dynamic "upload" {
    for_each = toset(each.value.secrets)
    content {
      file    = "/run/secrets/${upload.value}"
      content = local.secrets[upload.value]
    }
  }

  dynamic "healthcheck" {
    for_each = each.value.health == null ? [] : [each.value.health]
    content {
      test         = healthcheck.value
      interval     = "10s"
      timeout      = "8s"
      retries      = 3
      start_period = "60s"
    }
  }

  depends_on = [docker_container.proxy]
}
