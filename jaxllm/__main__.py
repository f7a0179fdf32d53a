"""`python -m jaxllm`, the same as the command `jaxllm`."""

from jaxllm.cli.app import main

if __name__ == "__main__":
    main()
