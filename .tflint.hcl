# tflint --init && tflint --recursive

config {
  call_module_type = "local"
}

plugin "terraform" {
  enabled = true
  preset  = "all"
}

plugin "aws" {
  enabled = true
  version = "0.38.0"
  source  = "github.com/terraform-linters/tflint-ruleset-aws"
}

# Resources are filed by topic, in the order of the flow; every output and variable is in its file.
rule "terraform_standard_module_structure" {
  enabled = true
}
