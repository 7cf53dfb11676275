from zerogen.cli import main

if __name__ == "__main__":
    main()
