"""`python -m repo_stream.testing`: write a CAR file of invented records."""

from repo_stream.testing.made import main

if __name__ == "__main__":
    main()
