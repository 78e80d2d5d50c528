"""What have others published, and how does a measurement compare with it?"""
