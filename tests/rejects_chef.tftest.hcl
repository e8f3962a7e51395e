# Rejected input of the step chef.

run "rejects_chef_without_server_url" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef        = { enabled = true, client_name = "c" }
    secrets     = { chef_client_key = { path = "chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.chef]
}

run "rejects_chef_without_client_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef        = { enabled = true, server_url = "https://chef.example.com" }
    secrets     = { chef_client_key = { path = "chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.chef]
}

run "rejects_chef_without_its_client_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { enabled = true, server_url = "https://chef.example.com", client_name = "c" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_with_the_secret_of_another_step" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef        = { enabled = true, server_url = "https://chef.example.com", client_name = "c" }
    secrets     = { consul_token = { path = "consul" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  expect_failures = [var.chef]
}

run "rejects_chef_url_without_scheme" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { server_url = "chef.example.com/organizations/x" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_url_of_another_scheme" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { server_url = "ftp://chef.example.com" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_url_with_a_user" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { server_url = "https://user:pw@chef.example.com" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_url_with_a_query" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { server_url = "https://chef.example.com/?a=b" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_client_name_with_a_space" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { client_name = "my client" }
  }

  expect_failures = [var.chef]
}

run "rejects_unknown_placeholder_in_chef_node_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { node_name = "{name}-{instance_id}" }
  }

  expect_failures = [var.chef]
}

run "rejects_unclosed_brace_in_chef_node_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { node_name = "{instance_id}-{hostname" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_node_name_that_all_instances_share" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { node_name = "web" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_node_name_of_account_and_region_only" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { node_name = "{region}-{account_id}" }
  }

  expect_failures = [var.chef]
}

run "rejects_empty_chef_node_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { node_name = "" }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_request_timeout_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { request_timeout_seconds = 0 }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_request_timeout_above_a_minute" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { request_timeout_seconds = 61 }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_max_concurrency_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { max_concurrency = 0 }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_max_concurrency_above_32" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { max_concurrency = 33 }
  }

  expect_failures = [var.chef]
}

run "rejects_half_a_chef_request" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef = { max_concurrency = 1.5 }
  }

  expect_failures = [var.chef]
}

run "rejects_chef_url_with_a_port_above_65535" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef    = { enabled = true, server_url = "https://chef.example.com:70000", client_name = "c" }
    secrets = { chef_client_key = { path = "chef" } }
  }

  expect_failures = [var.chef]
}
