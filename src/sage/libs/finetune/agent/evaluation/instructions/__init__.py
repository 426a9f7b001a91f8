"""Instructions whose following can be verified by a program: IFEval (Zhou et al. 2023, arXiv:2311.07911), all 25.

check      what a check is        keywords  length  formats  framing  casing   the checks, by kind
sentences  where sentences end    language, function_words   which language a text is in
known      all of them, by id     writer    a reply that follows given instructions

Each check is a pure function `(reply, arguments) -> bool`, from the published definitions; its time grows in proportion
to the reply, whatever the reply holds. Three things differ on purpose. The published code fills in a missing or
impossible argument at random; here that is an error, since the prompt asked for something else. It takes keywords for
patterns; here they are plain text. And its language detector draws random numbers; ours decides the same way each time.
"""
