# The function's place and configuration.

locals {
  # Partition, region and account come from an ARN in the state. If something changes that the call of this module
  # depends on, Terraform defers a data source to the apply, and plans to replace every resource with a value of it in
  # its name.
  queue_arn = split(":", aws_sqs_queue.dead_letters.arn) # the first resource of every apply
  place = {
    partition  = local.queue_arn[1]
    region     = local.queue_arn[3]
    account_id = local.queue_arn[4]
  }
  region     = local.place.region
  account_id = local.place.account_id

  # At the first plan, the place is not known yet. No place has longer names than this one.
  longest_place = {
    partition  = "aws-us-gov"
    region     = "ap-southeast-1"
    account_id = "000000000000"
  }

  features = sort(concat(local.module_steps, length(local.http_steps) > 0 ? ["http"] : []))
  has_work = length(local.steps) > 0 || var.inventory.enabled
  # Only the inventory uses events of instances that start.
  instance_states = var.inventory.enabled ? ["running", "terminated"] : ["terminated"]

  # Names that policies refer to. A reference to the resource would make a policy unknown whenever the resource changes.
  inventory_table_name = "${var.name}-inventory"
  log_group_name       = "/aws/lambda/${var.name}"
  event_bus_name       = "${var.name}-members"
  state_rule_name      = "${var.name}-instance-state"
  members_rule_name    = "${var.name}-members"
  sweep_rule_name      = "${var.name}-sweep"

  # The metrics that the function writes into its log: lambda/src/ec2_decommission/metrics.py.
  metric_namespace = "EC2Decommission"

  create_kms_key     = local.has_secrets && (var.create_kms_key != null ? var.create_kms_key : var.kms_key_arn == null)
  kms_key_arn        = local.has_secrets ? (local.create_kms_key ? one(aws_kms_key.secrets[*].arn) : var.kms_key_arn) : null
  encryption_context = { FunctionName = var.name }

  # The function keeps an EC2 client for each place (docs/benchmarks.md).
  places      = 1 + sum(concat([0], [for member in values(local.members) : member.regions == null ? 1 : length(member.regions)]))
  memory_size = coalesce(var.function.memory_size, min(10240, max(1769, 150 + ceil(1.5 * local.places))))

  visibility_timeout_seconds = coalesce(
    var.queue.visibility_timeout_seconds,
    6 * var.function.timeout + var.queue.batch_window_seconds,
  )

  # The wait before each retry doubles up to its cap; max_receive_count tries have one wait fewer.
  # (2^20 seconds exceed every cap, so the exponent stops at 20.)
  longest_outage_seconds = sum(concat([0], [
    for try in range(max(0, min(var.queue.max_receive_count, 1000) - 1)) :
    min(var.queue.max_retry_delay_seconds, var.queue.retry_delay_seconds * pow(2, min(try, 20)))
  ]))

  # Always ends with a slash, so that the permission does not cover keys that only start with the same letters.
  audit_prefix = try(var.audit.prefix, "") == "" ? "" : "${trimsuffix(var.audit.prefix, "/")}/"

  # The configuration in the function's environment. A step that is off is null. There is no secret in it.
  config = {
    name            = var.name
    account_id      = local.account_id
    region          = local.region
    dry_run         = var.dry_run
    instance_filter = var.instance_filter

    route53 = !local.route53_on ? null : {
      zones        = [for zone in local.zones : { for key, value in zone : key => value if value != null }]
      record_names = var.route53.record_names
      external_dns = var.route53.external_dns
      keep_names   = var.route53.keep_names
      # The share of one invocation. Three decimals keep the document short.
      requests_per_second = floor(1000 * var.route53.max_requests_per_second / var.queue.max_concurrency) / 1000
    }

    chef = !local.chef_on ? null : {
      server_url              = var.chef.server_url
      client_name             = var.chef.client_name
      node_name               = var.chef.node_name
      delete_client           = var.chef.delete_client
      signing_protocol        = var.chef.signing_protocol
      request_timeout_seconds = var.chef.request_timeout_seconds
      max_concurrency         = var.chef.max_concurrency
    }

    consul = !local.consul_on ? null : {
      url                     = var.consul.url
      datacenters             = var.consul.datacenters
      node_name               = var.consul.node_name
      lock_prefixes           = var.consul.lock_prefixes
      deregister_node         = var.consul.deregister_node
      request_timeout_seconds = var.consul.request_timeout_seconds
    }

    inventory = !var.inventory.enabled ? null : {
      table_name     = local.inventory_table_name
      retention_days = var.inventory.retention_days
    }

    sweep = !local.sweep_on ? null : {
      max_instances = var.sweep.max_instances
      max_fraction  = var.sweep.max_fraction
      adopt         = var.sweep.adopt
    }

    queue = {
      url                        = aws_sqs_queue.events.url
      visibility_timeout_seconds = local.visibility_timeout_seconds
      max_receive_count          = var.queue.max_receive_count
      retry_delay_seconds        = var.queue.retry_delay_seconds
      max_retry_delay_seconds    = var.queue.max_retry_delay_seconds
    }

    result_events = !local.result_events_on ? null : { event_bus_name = var.result_events.event_bus_name }
    audit         = var.audit == null ? null : { bucket = var.audit.bucket, prefix = local.audit_prefix }

    secrets            = sort(keys(var.secrets))
    encryption_context = local.encryption_context
    custom_steps       = { for name, step in local.custom_steps : name => { settings = step.settings, secrets = sort(keys(step.secrets)) } }
    settings_file      = local.has_settings
  }

  # The configuration in settings.json, in the package or the layer, where its size is not limited.
  settings = !local.has_settings ? null : {
    organization = var.organization == null ? null : {
      role_name   = var.organization.role_name
      external_id = var.organization.external_id
      members     = { for account, member in var.organization.members : account => coalesce(member.regions, [local.region]) }
    }
    http_steps = {
      for name, step in local.http_steps : name => {
        for key, value in merge(step, { secrets = sort(keys(step.secrets)) }) : key => value if key != "enabled"
      }
    }
  }

  environment = {
    POWERTOOLS_SERVICE_NAME = var.name
    POWERTOOLS_LOG_LEVEL    = var.function.log_level
  }

  # For the longest place, because the first plan does not know the real one. base64 counts bytes, not characters.
  environment_bytes = sum([
    for key, value in merge(local.environment, {
      DECOMMISSION_CONFIG = jsonencode(merge(local.config, {
        account_id = local.longest_place.account_id
        region     = local.longest_place.region
        queue = merge(local.config.queue, {
          url = "https://sqs.${local.longest_place.region}.amazonaws.com/${local.longest_place.account_id}/${var.name}"
        })
      }))
    }) : length(key) + floor(length(base64encode(value)) / 4 * 3)
  ])
}
