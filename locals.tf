# No data source here asks the network: a plan needs no account.

data "aws_partition" "this" {}

data "aws_region" "this" {}

locals {
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.id
  # Learned from a resource, as asking STS would need the network at plan.
  account_id = split(":", aws_cloudwatch_log_group.function.arn)[4]

  custom_steps = { for name, step in var.custom_steps : name => step if step.enabled }

  features = sort(compact([
    var.route53.enabled ? "route53" : "",
    var.chef.enabled ? "chef" : "",
    var.consul.enabled ? "consul" : "",
  ]))

  sweep_on = var.sweep.enabled && var.inventory.enabled
  has_work = length(local.features) + length(local.custom_steps) > 0 || var.inventory.enabled
  # An instance that starts is of interest only to the inventory.
  instance_states = var.inventory.enabled ? ["running", "terminated"] : ["terminated"]

  inventory_table_name = "${var.name}-inventory"

  # The metrics that the function writes into its log: lambda/src/ec2_decommission/metrics.py.
  metric_namespace = "EC2Decommission"

  # By the name that they have in the bundle: no step is handed another's.
  secrets = merge(var.secrets, [
    for step_name, step in local.custom_steps : { for name, secret in step.secrets : "custom_steps.${step_name}.${name}" => secret }
  ]...)
  has_secrets        = length(local.secrets) > 0
  create_kms_key     = local.has_secrets && (var.create_kms_key != null ? var.create_kms_key : var.kms_key_arn == null)
  kms_key_arn        = local.has_secrets ? (local.create_kms_key ? one(aws_kms_key.secrets[*].arn) : var.kms_key_arn) : null
  encryption_context = { FunctionName = var.name }

  visibility_timeout_seconds = coalesce(
    var.queue.visibility_timeout_seconds,
    6 * var.function.timeout + var.queue.batch_window_seconds,
  )

  # The wait before each retry doubles up to its cap; max_receive_count tries have one wait fewer.
  # (2^20 seconds are beyond any cap: the exponent needs to go no higher.)
  longest_outage_seconds = sum(concat([0], [
    for try in range(max(0, min(var.queue.max_receive_count, 1000) - 1)) :
    min(var.queue.max_retry_delay_seconds, var.queue.retry_delay_seconds * pow(2, min(try, 20)))
  ]))

  # What the function reads. A step that is off is null; no secret is in it.
  config = {
    name            = var.name
    dry_run         = var.dry_run
    instance_filter = var.instance_filter

    route53 = !var.route53.enabled ? null : {
      zone_ids     = var.route53.zone_ids
      record_names = var.route53.record_names
      # What all invocations share, by a bucket in the inventory's table.
      max_requests_per_second = var.route53.max_requests_per_second
      # One invocation's share, for where there is none: so many run at once at most. Three digits are enough, and the
      # document stays short.
      requests_per_second = floor(1000 * var.route53.max_requests_per_second / var.queue.max_concurrency) / 1000
    }

    chef = !var.chef.enabled ? null : {
      server_url              = var.chef.server_url
      client_name             = var.chef.client_name
      node_name               = var.chef.node_name
      delete_client           = var.chef.delete_client
      request_timeout_seconds = var.chef.request_timeout_seconds
      max_concurrency         = var.chef.max_concurrency
    }

    consul = !var.consul.enabled ? null : {
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
      url                     = aws_sqs_queue.events.url
      max_receive_count       = var.queue.max_receive_count
      retry_delay_seconds     = var.queue.retry_delay_seconds
      max_retry_delay_seconds = var.queue.max_retry_delay_seconds
    }

    secrets            = sort(keys(var.secrets))
    encryption_context = local.encryption_context
    custom_steps       = { for name, step in local.custom_steps : name => { settings = step.settings, secrets = sort(keys(step.secrets)) } }
  }

  environment = {
    POWERTOOLS_SERVICE_NAME = var.name
    POWERTOOLS_LOG_LEVEL    = var.function.log_level
  }

  # The URL of the queue is not known before it exists; its length is.
  environment_bytes = sum([
    for key, value in merge(local.environment, {
      DECOMMISSION_CONFIG = jsonencode(merge(local.config, {
        queue = merge(local.config.queue, { url = "https://sqs.${local.region}.amazonaws.com/123456789012/${var.name}" })
      }))
    }) : length(key) + floor(length(base64encode(value)) / 4 * 3)
  ])
}
